"""A forward pass on a device that has no float64, as Apple's and Intel's GPUs: PyTorch's device without memory stands in for it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.tests.unit.transformer.test_speakers import halves
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule
from wan_s2v_pack.wan_s2v_model.transformer import model
from wan_s2v_pack.wan_s2v_model.transformer.causal import CausalVideo, Engine
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer, timestep_embedding
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions
from wan_s2v_pack.wan_s2v_model.transformer.speakers import Regions

DEVICE = torch.device("meta")


class WithoutFloat64(TorchDispatchMode):
    """Refuses every operation on the device that takes or gives float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device == DEVICE and value.dtype == torch.float64:
                raise TypeError(f"{function} in float64 on {DEVICE}")
        return result


def test_the_stand_in_refuses_float64():
    with WithoutFloat64(), pytest.raises(TypeError, match="float64"):
        torch.arange(3, device=DEVICE).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_is_computed_in_float64_on_the_device(tiny_config, clip_inputs, dtype):
    transformer = WanS2VTransformer(tiny_config, device=DEVICE, dtype=dtype, residual_dtype=torch.float32)
    inputs = {name: value if name == "timestep" else value.to(DEVICE, dtype) for name, value in clip_inputs.items()}
    with WithoutFloat64():
        velocity = call(transformer, **inputs)
    assert (velocity.device, velocity.dtype, velocity.shape) == (DEVICE, torch.float32, clip_inputs["x"].shape)


def test_speakers_are_heard_without_float64_on_the_device(tiny_config, clip_inputs):
    transformer = WanS2VTransformer(tiny_config, device=DEVICE, dtype=torch.float16, residual_dtype=torch.float32)
    inputs = {**clip_inputs, "audio_embedding": torch.stack([clip_inputs["audio_embedding"]] * 2, dim=1)}
    inputs = {name: value if name == "timestep" else value.to(DEVICE, torch.float16) for name, value in inputs.items()}
    with WithoutFloat64():
        velocity = call(transformer, **inputs, regions=Regions(halves()))
    assert (velocity.device, velocity.shape) == (DEVICE, clip_inputs["x"].shape)


@pytest.mark.parametrize("options", [{}, {"rounds_rope": True}, {"placement": Placement(float8=True)}], ids=["exact", "official", "float8"])
@pytest.mark.parametrize("num_speakers", [1, 2])
def test_live_video_is_made_without_float64_on_the_device(tiny_config, noise, options, num_speakers):
    transformer = WanS2VTransformer(tiny_config, device=DEVICE, dtype=torch.float16, residual_dtype=torch.float32)
    sound = noise(25, tiny_config.audio_dim, 12).to(DEVICE, torch.float16)
    regions = None if num_speakers == 1 else Regions(halves()[:, :1].expand(-1, 3, -1, -1))
    with WithoutFloat64():
        video = CausalVideo(transformer, (8, 12), Engine(dtype=torch.float16, device=DEVICE), **options)
        video.set_anchor(noise(1, 16, 1, 8, 12), noise(1, 16, 19, 8, 12), noise(1, 5, tiny_config.text_dim))
        for first_latent in (0, 3):
            heard = sound if regions is None else torch.stack([sound, sound])
            velocity = video.forward(noise(16, 3, 8, 12), 0, 602.15, first_latent, 4, heard, regions=regions)
    assert (velocity.device, velocity.dtype, velocity.shape) == (DEVICE, torch.float32, (16, 3, 8, 12))


class Crossings(TorchDispatchMode):
    """The operations that bring something from one device to another: the CPU waits for each."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {value.device for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor) and value.dim()}
        if len(devices) > 1 or function is torch.ops.aten._local_scalar_dense.default:
            self.found.append(str(function))
        return result


@pytest.mark.parametrize("size", [1, 2])
def test_a_step_does_not_wait_for_the_device(tiny_config, clip_inputs, monkeypatch, size):
    """Not from the second step of a clip on; the device without memory would not give anything away, anyway."""
    monkeypatch.setattr(model, "HAVE_FLOAT64", {"cpu", "meta"})
    transformer = WanS2VTransformer(tiny_config, device=DEVICE).requires_grad_(False)
    inputs, kept = {name: value.to(DEVICE) for name, value in clip_inputs.items()}, {}
    schedule, crew = build_schedule("unipc", 4, 5.0), Crew([DEVICE] * size, Halt())

    def step():
        def work(member):
            def remember(build):
                return kept.get(member.rank) or kept.setdefault(member.rank, build())

            with mode:
                timestep = schedule.truncated_timesteps(inputs["timestep"])
                return call(transformer, **{**inputs, "timestep": timestep}, remember=remember, team=member)

        mode = Crossings()
        crew.run(work)
        return mode.found

    assert step(), "the stand-in sees the tables of the first step come"
    assert step() == []
    crew.close()


def test_tables_come_to_the_device_in_float32(tiny_transformer):
    positions = token_positions(2, 4, 4, with_motion=True)
    tables = [*rope_table(positions, 128, DEVICE), *tiny_transformer.embed_time(torch.tensor([731.0]))]
    assert {table.dtype for table in tables} == {torch.float32}
    assert {table.device for table in tables[:2]} == {DEVICE}
    assert timestep_embedding(torch.tensor([731.0]), 256).dtype == torch.float32

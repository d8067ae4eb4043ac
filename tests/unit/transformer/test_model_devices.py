"""A forward pass on a device that has no float64, as Apple's and Intel's GPUs: PyTorch's device without memory stands in for it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule
from wan_s2v_pack.wan_s2v_model.transformer import model
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer, timestep_embedding
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions

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

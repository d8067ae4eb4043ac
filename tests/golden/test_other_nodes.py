"""What other nodes put on a MODEL and on prompts: it works, or a warning names it. With our loader's MODEL and with ComfyUI's own."""

import logging
import types
from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, sample_clip
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

NUM_LATENT_FRAMES, WINDOW, OVERLAP = 6, 3, 1  # latents
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


@pytest.fixture(scope="module")
def plain(bridge, model):
    return sample_clip(clip_sampler(bridge, model))


@pytest.fixture
def calls(monkeypatch):
    """The conditions of every model call."""
    transformer = pack_module("wan_s2v_model.transformer.model").WanS2VTransformer
    forward, told = transformer.forward, []

    def note(self, x, timestep, conditions, *args, **kwargs):
        told.append((x.shape[2], conditions))
        return forward(self, x, timestep, conditions, *args, **kwargs)

    monkeypatch.setattr(transformer, "forward", note)
    return told


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING and record.name == "wan_s2v"]


# Replaced forwards


def with_forwards(model, path, make):
    """The MODEL with a forward of another node's in every block."""
    model = model.clone()
    for index, block in enumerate(model.model.diffusion_model.blocks):
        module = block.get_submodule(path)
        model.add_object_patch(f"diffusion_model.blocks.{index}.{path}.forward", types.MethodType(make, module))
    return model


def attend_as_native(gain):
    """A cross attention with the arguments of ComfyUI's own, as WanVideoNAG brings one; `gain` of what it adds."""

    def forward(self, x, context, transformer_options=None, **_):
        from comfy.ldm.modules.attention import optimized_attention

        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        return gain * self.o(optimized_attention(q, k, v, heads=self.num_heads, transformer_options=transformer_options))

    return forward


def feed_in_chunks(self, x):
    return torch.cat([self[2](self[1](self[0](part))) for part in x.chunk(2, dim=1)], dim=1)


def test_cross_attention_of_another_node_runs(bridge, model, plain, caplog):
    same = sample_clip(clip_sampler(bridge, with_forwards(model, "cross_attn", attend_as_native(1.0))))
    torch.testing.assert_close(same, plain, **CLOSE)
    other = sample_clip(clip_sampler(bridge, with_forwards(model, "cross_attn", attend_as_native(0.5))))
    assert (other - plain).abs().max() > 1e-2
    torch.testing.assert_close(sample_clip(clip_sampler(bridge, model)), plain, **CLOSE)
    assert warnings(caplog) == []


def test_feed_forward_of_another_node_runs(bridge, model, plain, caplog):
    torch.testing.assert_close(sample_clip(clip_sampler(bridge, with_forwards(model, "ffn", feed_in_chunks))), plain, **CLOSE)
    other = with_forwards(model, "ffn", lambda self, x: torch.zeros_like(x))
    assert (sample_clip(clip_sampler(bridge, other)) - plain).abs().max() > 1e-2
    assert warnings(caplog) == []


def test_self_attention_of_another_node_is_named_and_left_out(bridge, model, plain, caplog):
    def enhance(self, x, freqs, transformer_options=None):
        raise AssertionError

    result = sample_clip(clip_sampler(bridge, with_forwards(model, "self_attn", enhance)))
    torch.testing.assert_close(result, plain, **CLOSE)
    (warning,) = warnings(caplog)
    assert "has replaced blocks.*.self_attn (" in warning
    assert "test_other_nodes" in warning
    assert "enhance" in warning


def test_blocks_that_another_node_put_in_place_are_named_and_left_out(bridge, model, plain, caplog):
    changed = model.clone()
    for index in range(2):
        changed.add_object_patch(f"diffusion_model.blocks.{index}", torch.nn.Identity())
    torch.testing.assert_close(sample_clip(clip_sampler(bridge, changed)), plain, **CLOSE)
    assert ["has replaced blocks.* (torch.nn.modules.linear.Identity)" in warning for warning in warnings(caplog)] == [True]


# Context windows


def with_windows(model, anchor, **options):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    settings = {
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 2,
        "freenoise": False,
    }
    node = {**settings, "context_length": WINDOW, "context_overlap": OVERLAP, "causal_window_fix": anchor, **options}
    return ContextWindowsManualNode.execute(model, **node).result[0]


def window_sampler(bridge, model, real_history, pose=None):
    """Samples a clip whose sound says at every frame which one it is: the clip's own from 0 on, the 73 before it below 0."""
    frames = 4 * NUM_LATENT_FRAMES
    numbers = torch.cat([torch.arange(frames), torch.arange(-73, 0) if real_history else torch.empty(0)])
    sound = numbers.expand(1, 25, 32, -1).float()
    sampler = clip_sampler(bridge, model, cfg=1.0)

    def sample(clip, conditioning, noise):
        return sampler(clip, replace(conditioning, audio_embedding=sound, pose_latents=pose), noise)

    return sample


@pytest.mark.parametrize("real_history", [False, True], ids=["repeated sound before", "real sound before"])
@pytest.mark.parametrize("anchor", [False, True])
def test_every_window_hears_its_own_sound(bridge, model, calls, anchor, real_history):
    pose = torch.arange(NUM_LATENT_FRAMES).float()[None, None, :, None, None].expand(1, 16, -1, 8, 8)
    result = sample_clip(window_sampler(bridge, with_windows(model, anchor), real_history, pose), num_latent_frames=NUM_LATENT_FRAMES)
    assert torch.isfinite(result).all()
    starts = set()
    for num_latents, conditions in calls:
        heard = conditions.audio_embedding[0, 0, 0]
        first = int(heard[0])
        starts.add(first)
        has_anchor = anchor and num_latents > WINDOW
        assert num_latents == WINDOW + has_anchor
        assert heard[: 4 * num_latents].tolist() == list(range(first, first + 4 * num_latents))
        assert heard[4 * num_latents :].tolist() == (list(range(first - 73, first)) if real_history else [])
        assert conditions.motion_latents.shape[2] == 19
        assert conditions.pose_latents.shape[2] == num_latents
    assert len(starts) > 1


def test_sizes_that_look_like_time_are_not_cut(bridge, model, calls):
    """19 latents of a clip and of its history; 25 latents and layers of the sound."""
    for frames in (19, 25):
        calls.clear()
        sample_clip(clip_sampler(bridge, with_windows(model, False, context_length=9), steps=1, cfg=1.0), num_latent_frames=frames)
        assert {conditions.motion_latents.shape[2] for _, conditions in calls} == {19}
        assert {conditions.audio_embedding.shape[1:] for _, conditions in calls} == {(25, 32, 36)}


# Prompts


def test_what_other_nodes_add_to_prompts_is_named_and_left_out(bridge, model, plain, caplog):
    added = {
        "reference_motion": torch.ones(1, 16, 19, 8, 8),
        "control_video": torch.ones(1, 16, 4, 8, 8),
        "audio_embed": torch.ones(1, 25, 32, 4),
    }
    result = sample_clip(clip_sampler(bridge, model, {**added, "reference_latents": [torch.ones(1, 16, 1, 8, 8)], "control": object()}))
    torch.testing.assert_close(result, plain, **CLOSE)
    (warning,) = warnings(caplog)
    names = "audio_embed, control, control_video, reference_latents, reference_motion"
    assert f"the positive prompt brings {names} from another node" in warning


# Sampling


def test_a_sampler_that_takes_more_steps_stays_in_its_clip(bridge, model):
    """dpm_adaptive takes as many as it needs."""
    sampler, seen = clip_sampler(bridge, model, solver="dpm_adaptive", cfg=1.0), []
    sampler.on_step = lambda done, x0: seen.append(done)
    sample_clip(sampler, clip=1)
    steps = sampler.num_steps
    assert len(seen) > steps
    assert min(seen) == steps + 1
    assert max(seen) == 2 * steps


@pytest.mark.parametrize("levels", [[14.6, 3.0, 0.0], [0.9, 0.9, 0.0], [0.5, 0.9, 0.0], [1.0, float("nan"), 0.0], [1.0, 0.5, -0.1]])
def test_sigmas_of_another_schedule_are_refused(bridge, model, levels):
    with pytest.raises(ValueError, match="sigmas must fall from at most 1 to 0"):
        clip_sampler(bridge, model, sigmas=torch.tensor(levels))

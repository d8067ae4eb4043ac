"""Mistakes made on purpose: the replay notices each, and the output moves as far as it moved for the reference's own code."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from wan_s2v_pack.tests.golden.folder import find_jobs
from wan_s2v_pack.wan_s2v_model.kernels import fused, linears
from wan_s2v_pack.wan_s2v_model.transformer import audio_injector, blocks, rope
from wan_s2v_pack.wan_s2v_model.transformer import model as transformer
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer
from wan_s2v_pack.wan_s2v_model.transformer.tokens import MotionPacker

FIRST_CLIP = "c2_wide_8x26_first"  # 4 latent frames, no motion tokens
LATER_CLIP = "g_small_scale"  # 3 latent frames, with motion tokens; its small residual shows the epsilons of the norms


def set_values(patch: pytest.MonkeyPatch, module, **values) -> None:
    for name, value in values.items():
        patch.setattr(module, name, value)


def change_time(patch: pytest.MonkeyPatch, change) -> None:
    """Change what embed_time returns: (e of the head, e of the blocks [B, 6, video and others, dim])."""
    embed_time = WanS2VTransformer.embed_time

    def changed(self, timestep, *args):
        return change(*embed_time(self, timestep, *args), partial(embed_time, self))

    patch.setattr(WanS2VTransformer, "embed_time", changed)


def same_timestep_for_all(patch):
    change_time(patch, lambda head, blocks, embed_time: (head, blocks[:, :, :1].expand_as(blocks)))


def head_at_timestep_0(patch):
    change_time(patch, lambda head, blocks, embed_time: (embed_time(torch.zeros(head.shape[0]))[0], blocks))


def no_pose_branch(patch):
    embed_tokens = WanS2VTransformer.embed_tokens

    def without_bias(self, *args):
        self.cond_encoder.bias = nn.Parameter(torch.zeros_like(self.cond_encoder.bias), requires_grad=False)
        return embed_tokens(self, *args)

    patch.setattr(WanS2VTransformer, "embed_tokens", without_bias)


def change_audio(patch: pytest.MonkeyPatch, change) -> None:
    """Change the padded audio tokens [B, 19 + F, ...] of which the first 19 are dropped."""
    encode_padded = audio_injector.CausalAudioEncoder.encode_padded
    patch.setattr(audio_injector.CausalAudioEncoder, "encode_padded", lambda self, *args: tuple(map(change, encode_padded(self, *args))))


def drop_18_latents(patch):
    change_audio(patch, lambda tokens: tokens.roll(1, dims=1))


def one_frame_late(patch):
    encode_padded = audio_injector.CausalAudioEncoder.encode_padded
    patch.setattr(
        audio_injector.CausalAudioEncoder,
        "encode_padded",
        lambda self, features, *args: encode_padded(self, torch.cat([features[..., :1], features[..., :-1]], dim=-1), *args),
    )


def norm_per_head(patch):
    def by_head(x, weight, eps, rotation):
        heads = x.unflatten(-1, (-1, 128))
        scaled = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps) * weight.unflatten(-1, (-1, 128))
        return (scaled if rotation is None else fused.apply_rope(scaled, *rotation)).flatten(-2)

    patch.setattr(blocks, "rms_norm_rope", by_head)


def exact_gelu(patch):
    patch.setattr(nn.GELU, "forward", lambda self, x: nn.functional.gelu(x))
    patch.setattr(linears, "linear_gelu", lambda layer, x, cast: nn.functional.gelu(layer(x)))


def swapped_shift_and_scale(patch):
    project = audio_injector.AdaLayerNorm.project
    patch.setattr(audio_injector.AdaLayerNorm, "project", lambda self, audio, dtype: project(self, audio, dtype)[::-1])


def newest_latents_to_the_4x_bucket(patch):
    forward = MotionPacker.forward
    patch.setattr(MotionPacker, "forward", lambda self, latents, *args: forward(self, latents.flip(2), *args))


MISTAKES = {
    ("ref RoPE time = F instead of 30", FIRST_CLIP): lambda patch: set_values(patch, rope, REFERENCE_TIME=4),
    ("motion RoPE times positive (no conj)", LATER_CLIP): lambda patch: set_values(
        patch, rope, NEAR_MOTION_TIME=1, MIDDLE_MOTION_TIME=3, FAR_MOTION_TIMES=(19, 14, 9, 4)
    ),
    ("2x bucket time -2 instead of -3", LATER_CLIP): lambda patch: set_values(patch, rope, MIDDLE_MOTION_TIME=-2),
    ("4x bucket times -16,-12,-8,-4", LATER_CLIP): lambda patch: set_values(patch, rope, FAR_MOTION_TIMES=(-16, -12, -8, -4)),
    ("motion tokens use mask id 1", LATER_CLIP): lambda patch: set_values(patch, transformer, MOTION_ROW=1),
    ("motion buckets reversed (newest frames to 4x)", LATER_CLIP): newest_latents_to_the_4x_bucket,
    ("ref/motion use timestep t instead of 0", FIRST_CLIP): same_timestep_for_all,
    ("ref/motion use timestep t instead of 0", LATER_CLIP): same_timestep_for_all,
    ("head modulated with t=0 embedding", FIRST_CLIP): head_at_timestep_0,
    ("pose branch skipped when pose is zero (cond_encoder bias lost)", FIRST_CLIP): no_pose_branch,
    ("drop 18 audio latents instead of 19", FIRST_CLIP): drop_18_latents,
    ("audio shifted by one video frame", FIRST_CLIP): one_frame_late,
    ("adain LayerNorm eps 1e-6 instead of 1e-5", LATER_CLIP): lambda patch: set_values(patch, audio_injector, ADALN_EPS=1e-6),
    ("adain shift/scale swapped", FIRST_CLIP): swapped_shift_and_scale,
    ("q/k RMSNorm per head instead of over full dim", FIRST_CLIP): norm_per_head,
    ("GELU exact instead of tanh", FIRST_CLIP): exact_gelu,
}


@pytest.fixture(scope="module")
def table(golden_folder) -> dict[str, dict[str, float]]:
    return json.loads((golden_folder / "forward" / "sensitivity.json").read_text())["table"]


def output_error(golden_folder, case: str) -> float:
    """Error of the output of a case, which must not pass."""
    (job,) = (job for job in find_jobs(golden_folder, "forward") if job.name == f"forward/{case}")
    with torch.inference_mode():
        rows = {row.tensor: row for row in job.rows()}
    assert not rows["out"].ok
    return rows["out"].error


@pytest.mark.parametrize(("mistake", "case"), MISTAKES, ids=lambda value: value)
def test_mistake(golden_folder, table, monkeypatch, mistake, case):
    MISTAKES[mistake, case](monkeypatch)
    assert output_error(golden_folder, case) == pytest.approx(table[mistake][case], rel=0.02)

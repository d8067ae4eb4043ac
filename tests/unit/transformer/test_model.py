"""The assembled transformer: token order, segments, inputs that are absent, hooks, dtypes, and the size of the real model."""

import math

import pytest
import torch
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes
from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B
from wan_s2v_pack.wan_s2v_model.transformer.model import Conditions, WanS2VTransformer, share_layers, timestep_embedding

FRAME, VIDEO, MOTION = 24, 48, 24 + 6 + 4  # tokens of a frame, of the clip and of the history, at 8 x 12 latents
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def hooks(*, replace=None, patch=None, blocks=range(3)):
    """transformer_options with a block replacement and a patch, as other nodes put them there."""
    options = {}
    if replace:
        options["patches_replace"] = {"dit": {("double_block", index): replace for index in blocks}}
    if patch:
        options["patches"] = {"double_block": [patch]}
    return options


def without(inputs, *names):
    return {**inputs, **dict.fromkeys(names)}


# Output


def test_velocity_has_the_shape_of_the_latents_in_float32(tiny_transformer, clip_inputs):
    velocity = call(tiny_transformer, **clip_inputs)
    assert velocity.shape == clip_inputs["x"].shape
    assert velocity.dtype == torch.float32
    assert 0.1 < velocity.std() < 10


@pytest.mark.parametrize("name", ["x", "timestep", "context", "audio_embedding", "ref_latents", "motion_latents", "pose_latents"])
def test_every_input_matters(tiny_transformer, clip_inputs, name):
    other = {**clip_inputs, name: clip_inputs[name] * 0.5}
    assert (call(tiny_transformer, **other) - call(tiny_transformer, **clip_inputs)).abs().max() > 1e-3


def test_inputs_are_not_modified(tiny_transformer, clip_inputs):
    before = {name: tensor.clone() for name, tensor in clip_inputs.items()}
    call(tiny_transformer, **clip_inputs)
    assert all(torch.equal(clip_inputs[name], before[name]) for name in before)


def test_batch_equals_single_calls(tiny_transformer, clip_inputs, noise):
    second = {name: noise(*tensor.shape, seed=20 + i) for i, (name, tensor) in enumerate(clip_inputs.items())}
    second["timestep"] = torch.tensor([123.0])
    both = call(tiny_transformer, **{name: torch.cat([clip_inputs[name], second[name]]) for name in clip_inputs})
    torch.testing.assert_close(both, torch.cat([call(tiny_transformer, **clip_inputs), call(tiny_transformer, **second)]), **CLOSE)


# Inputs that may be absent


def test_no_pose_equals_zero_pose(tiny_transformer, clip_inputs):
    zeros = {**clip_inputs, "pose_latents": torch.zeros_like(clip_inputs["x"])}
    assert torch.equal(call(tiny_transformer, **without(clip_inputs, "pose_latents")), call(tiny_transformer, **zeros))


def test_dropped_motion_leaves_no_tokens(tiny_transformer, clip_inputs):
    lengths = []

    def replace(args, extra):
        lengths.append(args["img"].shape[1])
        return extra["original_block"](args)

    for inputs in (clip_inputs, without(clip_inputs, "motion_latents")):
        call(tiny_transformer, **inputs, transformer_options=hooks(replace=replace, blocks=[0]))
    assert lengths == [VIDEO + FRAME + MOTION, VIDEO + FRAME]


def test_dropped_motion_is_not_zero_motion(tiny_transformer, clip_inputs):
    zeros = {**clip_inputs, "motion_latents": torch.zeros_like(clip_inputs["motion_latents"])}
    assert (call(tiny_transformer, **without(clip_inputs, "motion_latents")) - call(tiny_transformer, **zeros)).abs().max() > 1e-3


def test_absent_audio_is_no_audio_attention(tiny_transformer, clip_inputs, monkeypatch):
    silent = call(tiny_transformer, **without(clip_inputs, "audio_embedding"))
    monkeypatch.setattr(tiny_transformer.audio_injector, "forward", lambda stream, *args, **kwargs: stream)
    assert torch.equal(silent, call(tiny_transformer, **clip_inputs))
    monkeypatch.undo()
    zeros = {**clip_inputs, "audio_embedding": torch.zeros_like(clip_inputs["audio_embedding"])}
    assert (silent - call(tiny_transformer, **zeros)).abs().max() > 1e-3


def test_audio_behind_the_clip_is_ignored(tiny_transformer, clip_inputs, noise):
    longer = torch.cat([clip_inputs["audio_embedding"], noise(1, 25, 8, 5)], dim=-1)
    assert torch.equal(call(tiny_transformer, **{**clip_inputs, "audio_embedding": longer}), call(tiny_transformer, **clip_inputs))


def test_73_frames_behind_the_clip_are_those_before_it(tiny_transformer, clip_inputs, noise):
    audio = clip_inputs["audio_embedding"]

    def run(history):
        return call(tiny_transformer, **{**clip_inputs, "audio_embedding": torch.cat([audio, history], dim=-1)})

    repeated = call(tiny_transformer, **clip_inputs)
    assert torch.equal(run(audio[..., :1].expand(-1, -1, -1, 73)), repeated)
    assert not torch.allclose(run(noise(1, 25, 8, 73)), repeated)


def test_audio_strength_goes_from_silence_to_the_sound(tiny_transformer, clip_inputs):
    silence = {**clip_inputs, "audio_embedding": torch.zeros_like(clip_inputs["audio_embedding"])}
    assert torch.equal(call(tiny_transformer, **clip_inputs, audio_strength=0.0), call(tiny_transformer, **silence))
    assert torch.equal(call(tiny_transformer, **clip_inputs, audio_strength=1.0), call(tiny_transformer, **clip_inputs))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.5])
def test_audio_strength_mixes_tokens(tiny_transformer, clip_inputs, strength):
    features = clip_inputs["audio_embedding"]
    sound, silence = (tiny_transformer.casual_audio_encoder(heard) for heard in (features, torch.zeros_like(features)))
    for mixed, a, b in zip(tiny_transformer.embed_audio(features, strength), sound, silence, strict=True):
        torch.testing.assert_close(mixed, strength * a + (1 - strength) * b)


def test_audio_goes_in_behind_the_listed_blocks(tiny_transformer, clip_inputs, monkeypatch):
    order = []
    inject = tiny_transformer.audio_injector.forward

    def spy(stream, index, voices, compute):
        order.append(("audio", index, stream.split, voices[0].sounds[0].keys.dtype))
        return inject(stream, index, voices, compute)

    def replace(args, extra):
        order.append(("block", args["transformer_options"]["block_index"]))
        return extra["original_block"](args)

    monkeypatch.setattr(tiny_transformer.audio_injector, "forward", spy)
    call(tiny_transformer, **clip_inputs, transformer_options=hooks(replace=replace))
    assert order == [step for index in range(3) for step in (("block", index), ("audio", index, VIDEO, torch.float32))]


def test_short_text_is_padded_with_zero_rows(tiny_transformer, clip_inputs):
    padded = torch.nn.functional.pad(clip_inputs["context"], (0, 0, 0, 505))
    assert torch.equal(call(tiny_transformer, **{**clip_inputs, "context": padded}), call(tiny_transformer, **clip_inputs))
    assert tiny_transformer.embed_text(clip_inputs["context"]).shape == (1, 512, 256)
    assert (tiny_transformer.embed_text(clip_inputs["context"])[0, 7:].abs().max(dim=-1).values > 0).all()


# Tokens and time


@pytest.fixture
def tokens_of(tiny_transformer, clip_inputs):
    def embed(**changes):
        given = {**clip_inputs, **changes}
        return tiny_transformer.embed_tokens(
            given.pop("x"), Conditions(**{name: value for name, value in given.items() if name != "timestep"})
        )

    return embed


def test_tokens_are_video_reference_motion_each_with_its_mask_row(tiny_transformer, clip_inputs, tokens_of):
    tokens, split = tokens_of()
    assert (tokens.shape, split) == ((1, VIDEO + FRAME + MOTION, 256), VIDEO)
    model, mask = tiny_transformer, tiny_transformer.trainable_cond_mask.weight

    def token(layer, latents, frame, row, column):
        patch = latents[0, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        return (layer.weight[:, :, 0] * patch).sum(dim=(1, 2, 3)) + layer.bias

    for frame, row, column in [(0, 0, 0), (0, 0, 5), (0, 3, 1), (1, 2, 4)]:
        video = token(model.patch_embedding, clip_inputs["x"], frame, row, column)
        pose = token(model.cond_encoder, clip_inputs["pose_latents"], frame, row, column)
        torch.testing.assert_close(tokens[0, frame * 24 + row * 6 + column], video + pose + mask[0], **CLOSE)
    reference = token(model.patch_embedding, clip_inputs["ref_latents"], 0, 2, 3)
    torch.testing.assert_close(tokens[0, VIDEO + 2 * 6 + 3], reference + mask[1], **CLOSE)
    bias = model.cond_encoder.bias  # a pose of zeros still adds it
    torch.testing.assert_close(
        tokens_of(pose_latents=None)[0][0, 9], token(model.patch_embedding, clip_inputs["x"], 0, 1, 3) + bias + mask[0], **CLOSE
    )
    motion = model.frame_packer(clip_inputs["motion_latents"]) + mask[2]
    torch.testing.assert_close(tokens[:, VIDEO + FRAME :], motion, **CLOSE)


def test_reference_time_is_0_whatever_the_timestep(tiny_transformer):
    e_head, e = tiny_transformer.embed_time(torch.tensor([731.0, 5.0]))
    zero_head, zero = tiny_transformer.embed_time(torch.tensor([0.0]))
    assert (e_head.shape, e.shape) == ((2, 256), (2, 6, 2, 256))
    torch.testing.assert_close(e[:, :, 1], zero[:, :, 0].expand(2, -1, -1), **CLOSE)
    torch.testing.assert_close(e_head[1:], tiny_transformer.embed_time(torch.tensor([5.0]))[0], **CLOSE)
    assert (e_head[0] - zero_head[0]).abs().max() > 0.1
    assert (e[0, :, 0] - e[0, :, 1]).abs().max() > 0.1


def test_time_projection_follows_the_specification(tiny_transformer):
    from torch.nn.functional import silu
    from wan_s2v_pack.wan_s2v_model.transformer.model import timestep_embedding

    first, second = tiny_transformer.time_embedding[0], tiny_transformer.time_embedding[2]
    embedded = second(silu(first(timestep_embedding(torch.tensor([731.0]), 256))))
    e_head, e = tiny_transformer.embed_time(torch.tensor([731.0]))
    torch.testing.assert_close(e_head, embedded, **CLOSE)
    torch.testing.assert_close(e[0, :, 0], tiny_transformer.time_projection[1](silu(embedded))[0].unflatten(0, (6, 256)), **CLOSE)


def test_tokens_are_told_their_positions(tiny_transformer, clip_inputs):
    from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions

    seen = []

    def replace(args, extra):
        seen.append(args["pe"])
        return extra["original_block"](args)

    call(tiny_transformer, **clip_inputs, transformer_options=hooks(replace=replace, blocks=[1]))
    expected = rope_table(token_positions(2, 8, 12, with_motion=True), 128)
    assert all(torch.equal(table, other) for table, other in zip(seen[0], expected, strict=True))


# Hooks of other nodes


def test_hooks_that_do_nothing_change_nothing(tiny_transformer, clip_inputs):
    options = hooks(replace=lambda args, extra: extra["original_block"](args), patch=lambda args: args)
    assert torch.equal(call(tiny_transformer, **clip_inputs, transformer_options=options), call(tiny_transformer, **clip_inputs))


@pytest.mark.parametrize("block", range(3))
def test_block_replacement_changes_the_result(tiny_transformer, clip_inputs, block):
    options = hooks(replace=lambda args, extra: {"img": args["img"]}, blocks=[block])
    assert (call(tiny_transformer, **clip_inputs, transformer_options=options) - call(tiny_transformer, **clip_inputs)).abs().max() > 1e-3


def test_patch_is_called_behind_every_block_and_changes_the_result(tiny_transformer, clip_inputs):
    calls = []

    def patch(args):
        calls.append((args["block_index"], args["img_offset"], args["img"].shape[1]))
        return {"img": args["img"] * 1.5}

    changed = call(tiny_transformer, **clip_inputs, transformer_options=hooks(patch=patch))
    assert calls == [(index, 0, VIDEO + FRAME + MOTION) for index in range(3)]
    assert (changed - call(tiny_transformer, **clip_inputs)).abs().max() > 1e-3


def test_replacement_may_give_the_block_other_inputs(tiny_transformer, clip_inputs):
    def halve_text(args, extra):
        return extra["original_block"]({**args, "txt": args["txt"] * 0.5})

    changed = call(tiny_transformer, **clip_inputs, transformer_options=hooks(replace=halve_text))
    assert (changed - call(tiny_transformer, **clip_inputs)).abs().max() > 1e-3


def test_tensors_in_the_hands_of_a_hook_stay_as_they_are(tiny_transformer, clip_inputs):
    kept = []

    def keep(*tensors):
        kept.extend((tensor, tensor.clone()) for tensor in tensors)

    def replace(args, extra):
        keep(args["img"], args["txt"], args["vec"], *args["pe"])
        result = extra["original_block"](args)
        keep(result["img"])
        return result

    def patch(args):
        keep(args["img"])
        return args

    call(tiny_transformer, **clip_inputs, transformer_options=hooks(replace=replace, patch=patch))
    assert len(kept) == 3 * 7
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)


def test_kernel_knows_the_block_it_runs_in(tiny_transformer, clip_inputs):
    seen = []

    def kernel(q, k, v, heads, transformer_options):
        seen.append((transformer_options["block_index"], q.shape[1], k.shape[1]))
        assert (transformer_options["total_blocks"], transformer_options["block_type"]) == (3, "double")
        return sdpa(q, k, v, heads)

    assert torch.equal(
        call(tiny_transformer, **clip_inputs, attention=kernel, transformer_options={}), call(tiny_transformer, **clip_inputs)
    )
    everything = VIDEO + FRAME + MOTION
    block = [(everything, everything), (everything, 512), (FRAME, 5)]  # self, text, audio
    last = [(VIDEO, everything), (VIDEO, 512), (FRAME, 5)]  # behind it only the video counts
    expected = [(0, block), (1, block[:2]), (2, last)]
    assert seen == [(index, *lengths) for index, attentions in expected for lengths in attentions]


# Dtypes


@pytest.mark.parametrize(
    ("residual_dtype", "expected"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (None, torch.bfloat16)]
)
def test_residual_stream_has_its_own_dtype(tiny_config, tiny_transformer, clip_inputs, residual_dtype, expected):
    model = WanS2VTransformer(tiny_config, dtype=torch.bfloat16, residual_dtype=residual_dtype).requires_grad_(False)
    model.load_state_dict(tiny_transformer.state_dict())
    dtypes = []

    def replace(args, extra):
        dtypes.append((args["img"].dtype, args["txt"].dtype, args["vec"].dtype))
        return extra["original_block"](args)

    velocity = call(model, **{**clip_inputs, "x": clip_inputs["x"].bfloat16()}, transformer_options=hooks(replace=replace))
    assert dtypes == [(expected, torch.bfloat16, torch.float32)] * 3
    assert velocity.dtype == torch.float32
    exact = call(tiny_transformer, **clip_inputs)
    assert (velocity - exact).square().mean().sqrt() < 0.05 * exact.std()


@pytest.mark.parametrize("name", ["context", "ref_latents", "motion_latents", "pose_latents"])
def test_everything_is_computed_in_the_dtype_of_the_noisy_latents(tiny_config, tiny_transformer, clip_inputs, name):
    model = WanS2VTransformer(tiny_config, dtype=torch.bfloat16).requires_grad_(False)
    model.load_state_dict(tiny_transformer.state_dict())
    half = {**clip_inputs, "x": clip_inputs["x"].bfloat16(), name: clip_inputs[name].bfloat16()}
    assert torch.equal(call(model, **half), call(model, **{**half, name: half[name].float()}))


# The real model


def test_14b_model_has_the_tensors_of_the_checkpoint():
    model = WanS2VTransformer(S2V_14B, device="meta", dtype=torch.bfloat16)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == expected_shapes(S2V_14B)
    assert len(shapes) == 1260
    assert sum(parameter.numel() for parameter in model.parameters()) == 16_295_755_609


def test_tiny_model_has_the_tensors_that_are_expected_of_it(tiny_config, tiny_transformer):
    assert {name: tuple(tensor.shape) for name, tensor in tiny_transformer.state_dict().items()} == expected_shapes(tiny_config)


# The layers of another loader's model


def test_shared_layers_are_the_other_model_s_own(tiny_config, tiny_transformer, clip_inputs):
    model = WanS2VTransformer(tiny_config, device="meta")
    share_layers(model, tiny_transformer)
    theirs = dict(tiny_transformer.named_parameters())
    assert all(parameter is theirs[name] for name, parameter in model.named_parameters())
    assert torch.equal(call(model, **clip_inputs), call(tiny_transformer, **clip_inputs))


def test_sharing_keeps_the_other_model_whole(tiny_config, tiny_transformer, clip_inputs):
    names, velocity = list(tiny_transformer.state_dict()), call(tiny_transformer, **clip_inputs)
    share_layers(WanS2VTransformer(tiny_config, device="meta"), tiny_transformer)
    assert list(tiny_transformer.state_dict()) == names
    assert torch.equal(call(tiny_transformer, **clip_inputs), velocity)


def test_hooked_last_block_keeps_all_tokens_and_gives_the_same_result(tiny_transformer, clip_inputs):
    lengths = []

    def replace(args, extra):
        result = extra["original_block"](args)
        lengths.append(result["img"].shape[1])
        return result

    options = {"patches_replace": {"dit": {("double_block", 2): replace}}}
    out = call(tiny_transformer, **clip_inputs, transformer_options=options)
    assert lengths == [VIDEO + FRAME + MOTION]
    torch.testing.assert_close(out, call(tiny_transformer, **clip_inputs), atol=1e-5, rtol=1e-5)


def test_time_sinusoid_has_cosines_first():
    for timestep in (0.0, 1.0, 999.0, 731.5):
        frequencies = [10_000 ** (-i / 128) for i in range(128)]
        expected = [math.cos(timestep * f) for f in frequencies] + [math.sin(timestep * f) for f in frequencies]
        embedded = timestep_embedding(torch.tensor([timestep]), 256)
        assert embedded.dtype == torch.float32
        torch.testing.assert_close(embedded[0], torch.tensor(expected), atol=1e-6, rtol=0)

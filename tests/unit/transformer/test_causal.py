"""A video block by block: what is remembered, where, and that the same gives the same."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.transformer.blocks import FLOAT8_BEYOND, Compute, sdpa
from wan_s2v_pack.wan_s2v_model.transformer.causal import CausalVideo, Engine, Rotations
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions

SIZE = 8, 12  # latents: 24 tokens each
PLAIN = Engine()
STEPS = 2
TIMESTEPS = 1000.0, 602.15


@pytest.fixture
def told(noise, tiny_config):
    """Picture, motion and prompt of an anchor."""
    return noise(1, 16, 1, *SIZE, seed=1), noise(1, 16, 19, *SIZE, seed=2), noise(1, 5, tiny_config.text_dim, seed=3)


@pytest.fixture
def play(noise, tiny_config):
    """Velocities of some blocks, one behind the other: [blocks * steps, 16, 3, h, w]."""

    def velocities(video, blocks):
        found = []
        for block in blocks:
            sound = noise(25, tiny_config.audio_dim, 12, seed=50 + block)
            for step in range(STEPS):
                x = noise(16, 3, *SIZE, seed=100 + STEPS * block + step)
                found.append(video.forward(x, step, TIMESTEPS[step], 3 * block, 4 + block, sound))
        return torch.stack(found)

    return velocities


def start(transformer, told, engine=PLAIN, **options):
    video = CausalVideo(transformer, SIZE, engine, steps=range(STEPS), **options)
    video.set_anchor(*told)
    return video


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_a_block_sees_the_three_before_it_and_nothing_older(tiny_transformer, told, play):
    shallow = WanS2VTransformer(replace(tiny_transformer.config, num_layers=1, audio_inject_layers=(0,)))
    shallow.load_state_dict({name: tensor for name, tensor in tiny_transformer.state_dict().items() if name in shallow.state_dict()})
    whole = play(start(shallow, told), range(6))
    for first, is_same in ((2, True), (3, False)):
        video = start(shallow, told)
        part = play(video, range(first, 6))[-STEPS:]
        assert torch.allclose(part, whole[-STEPS:], atol=1e-5) == is_same


def test_the_same_forward_again_gives_the_same_bits(tiny_transformer, told, play):
    video = start(tiny_transformer, told)
    play(video, range(5))
    assert torch.equal(play(video, [5]), play(video, [5]))


def test_emptied_and_played_again_gives_the_same_bits(tiny_transformer, told, play):
    for placement in (Placement(), Placement(float8=True)):
        video = start(tiny_transformer, told, placement=placement)
        first = play(video, range(5))
        video.clear()
        video.set_anchor(*told)
        assert torch.equal(play(video, range(5)), first)


def test_rings_in_main_memory_give_the_same_bits(tiny_transformer, told, play):
    expected = play(start(tiny_transformer, told), range(6))
    assert torch.equal(play(start(tiny_transformer, told, placement=Placement(on_host=True)), range(6)), expected)
    in_float8 = play(start(tiny_transformer, told, placement=Placement(float8=True)), range(6))
    assert torch.equal(play(start(tiny_transformer, told, placement=Placement(float8=True, on_host=True)), range(6)), in_float8)


def test_float8_is_near_and_reaches_a_kernel_that_takes_it(tiny_transformer, told, play):
    expected = play(start(tiny_transformer, told), range(6))
    taken = []

    def kernel(q, k, v, heads, **_):
        if isinstance(k, torch.Tensor):
            return sdpa(q, k, v, heads)
        taken.append(q.values.dtype)
        return sdpa(*(part.to(torch.float32).flatten(2) for part in (q, k, v)), heads)

    setattr(kernel, FLOAT8_BEYOND, 30)
    found = play(start(tiny_transformer, told, placement=Placement(float8=True)), range(6))
    assert 1e-4 < relative(found, expected) < 0.05
    video = start(tiny_transformer, told, placement=Placement(float8=True))
    video._engine = Engine(compute=lambda: Compute(attention=kernel))
    assert relative(play(video, range(6)), expected) < 0.05
    assert set(taken) == {torch.float8_e4m3fn}


def test_nothing_of_one_call_is_taken_off_the_keys(tiny_transformer, told, play, monkeypatch):
    """A mean of one call's keys would not be that of the next one, which stand beside them in the ring."""
    taken = []

    def kernel(q, k, v, heads, **_):
        if isinstance(k, torch.Tensor):
            return sdpa(q, k, v, heads)
        taken.append(k.to(torch.float32))
        return sdpa(*(part.to(torch.float32).flatten(2) for part in (q, k, v)), heads)

    setattr(kernel, FLOAT8_BEYOND, 30)
    video, plain = start(tiny_transformer, told, placement=Placement(float8=True)), start(tiny_transformer, told)
    video._engine = Engine(compute=lambda: Compute(attention=kernel))
    play(video, range(1))
    play(plain, range(1))
    keys = plain.rings[0].memories.open(0, 0)[0, :, : taken[0].shape[1]].unflatten(-1, (2, -1))
    assert relative(taken[0], keys) < 0.05


def test_prompt_and_sound_are_projected_once(tiny_transformer, told, play, monkeypatch):
    calls = []
    project = WanS2VTransformer.embed_audio
    monkeypatch.setattr(WanS2VTransformer, "embed_audio", lambda *arguments: calls.append("sound") or project(*arguments))
    embed_text = WanS2VTransformer.embed_text
    monkeypatch.setattr(WanS2VTransformer, "embed_text", lambda *arguments: calls.append("text") or embed_text(*arguments))
    video = start(tiny_transformer, told)
    video.set_anchor(*told)
    play(video, range(2))
    assert calls == ["text", "sound", "sound"]


def test_weights_are_fetched_layer_by_layer(tiny_transformer, told, play):
    passes = []

    def begin():
        passes.append(0)

        def next_layer():
            passes[-1] += 1

        return next_layer

    play(start(tiny_transformer, told, Engine(begin=begin)), range(1))
    assert passes == [len(tiny_transformer.blocks) + 1] * (1 + STEPS)


def test_rotations_are_those_of_the_whole_table():
    rotations = Rotations(*SIZE, 128, torch.device("cpu"), rounded=False)
    positions = token_positions(3, *SIZE, with_motion=False)[: 3 * 24]
    positions[:, 0] += 44_970  # the official table ends here
    for ours, theirs in zip(rotations.at(range(44_970, 44_973)), rope_table(positions, 128), strict=True):
        assert torch.equal(ours, theirs)

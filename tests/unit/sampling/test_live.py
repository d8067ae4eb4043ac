"""Noise levels, distances, noise and anchors of live video, and where a run may go on."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.sampling.live import (
    CLIP_BLOCKS,
    FIRST_LATENT,
    PICTURE,
    Anchor,
    BlockNoise,
    Heard,
    LiveSampler,
    LiveState,
    Told,
    first_anchor,
    first_latent_anchor,
    live_blocks,
    live_sigmas,
    official_sigmas,
    picture_distance,
)

SHAPE = 16, 3, 2, 2
ANCHOR = Anchor(torch.zeros(1, 16, 1, 2, 2), torch.zeros(1, 16, 19, 2, 2))
BEFORE = LiveState(0, ANCHOR)


class FakeNetwork:
    """Remembers, step by step, what it was given since the rings were emptied; its velocity depends on all of that."""

    def __init__(self):
        self.clear()
        self.calls = []

    def clear(self):
        self.seen = {}

    def set_anchor(self, picture_latent, motion_latents, context):
        self.anchor = picture_latent

    def forward(self, x, step, timestep, first_latent, distance, audio, pose=None, regions=None):
        ring = self.seen.setdefault(step, {})
        ring[first_latent] = x
        self.calls.append((first_latent // 3, step))
        kept = sorted(ring)[-4:]
        return sum(ring[first] for first in kept) / 7 + self.anchor[0] + distance / 100 + audio.mean() + timestep / 1e4


def sampler(network, steps=4, seed=5):
    told = Told(
        torch.zeros(1, 1, 4),
        of_block=lambda block: Heard(torch.full((25, 8, 12), float(block))),
        distance=lambda block, step: picture_distance(seed, block, step),
    )
    return LiveSampler(network, told, live_sigmas(steps))


def run(state=BEFORE, count=12, network=None, **options):
    options = {"next_anchor": first_latent_anchor, **options}
    return list(live_blocks(sampler(network or FakeNetwork()), state, count, BlockNoise(2, 2, seed=5), **options))


def test_the_shift_acts_twice_on_the_smallest_level():
    assert official_sigmas(4) == pytest.approx([1, 0.857692301, 0.602150559, 0.008928572, 0], abs=1e-7)
    assert official_sigmas(1) == [1, 0]


def test_three_steps_leave_out_the_fourth():
    assert live_sigmas(3) == [*official_sigmas(4)[:3], 0]
    assert live_sigmas(4) == official_sigmas(4)


def test_distances_are_those_of_the_official_draw_and_the_same_everywhere():
    drawn = [picture_distance(seed, block, step) for seed in range(4) for block in range(200) for step in range(4)]
    assert set(drawn) == set(range(4, 31))
    assert [picture_distance(7, 100, step) for step in range(4)] == [9, 4, 4, 30]


def test_blocks_take_parts_of_the_noise_of_their_clip():
    noise = BlockNoise(2, 4, seed=9)
    clip = torch.randn(16, 12, 2, 4, generator=torch.Generator().manual_seed(9 + 1))
    assert torch.equal(torch.cat([noise(block) for block in range(4, 8)], dim=1), clip)
    assert torch.equal(noise(2), BlockNoise(2, 4, seed=9)(2))


@pytest.mark.parametrize(("style", "calls", "picture"), [(FIRST_LATENT, [1, 73], 1), (PICTURE, [5, 365], 2)])
def test_anchor_before_the_first_block(style, calls, picture):
    encoded = []

    def encode(frames):
        encoded.append(len(frames))
        latents = (len(frames) + 3) // 4
        return torch.arange(1.0, latents + 1).reshape(1, 1, latents, 1, 1).expand(1, 16, latents, 2, 2)

    anchor = first_anchor(style, torch.rand(16, 16, 3), encode)
    assert encoded == calls
    assert anchor.picture_latent.unique() == picture
    assert anchor.motion_latents.shape == (1, 16, 19, 2, 2)
    assert anchor.motion_latents.max() == (calls[1] + 3) // 4


def test_the_first_latent_replaces_the_picture_once():
    network = FakeNetwork()
    found = run(network=network)
    first = found[0][0].latents[:, :1]
    anchors = [state.anchor.picture_latent for _, state in found]
    assert all(not anchor.any() for anchor in anchors[: CLIP_BLOCKS - 1])
    assert all(torch.equal(anchor[0], first) for anchor in anchors[CLIP_BLOCKS - 1 :])
    assert torch.equal(network.anchor[0], first)
    assert not run(next_anchor=None)[-1][1].anchor.picture_latent.any()


@pytest.mark.parametrize("between", [4, 8])
def test_a_run_goes_on_where_the_rings_are_emptied(between):
    whole = run(count=20, blocks_between_restarts=between)
    _, state = whole[2 * between - 1]
    rest = run(state, count=20, blocks_between_restarts=between)
    assert [block.index for block, _ in rest] == list(range(2 * between, 20))
    for (ours, _), (theirs, _) in zip(rest, whole[2 * between :], strict=True):
        assert torch.equal(ours.latents, theirs.latents)
    unbroken = run(count=20)
    assert torch.equal(unbroken[between - 1][0].latents, whole[between - 1][0].latents)


def test_recent_blocks_are_played_back_step_by_step():
    network = FakeNetwork()
    _, state = run()[-1]
    network.calls.clear()
    sampler(network).begin(state)
    assert network.calls == [(block, step) for block in range(4, 12) for step in range(4)]


def test_steps_are_reported_and_inputs_kept():
    steps = []
    live = LiveSampler(FakeNetwork(), sampler(None)._told, live_sigmas(3), lambda *step: steps.append(step[:2]))
    live.set_anchor(ANCHOR)
    (block,) = live.sample([2], lambda number: torch.ones(SHAPE))
    assert steps == [(2, 0), (2, 1), (2, 2)]
    assert live.num_steps == len(block.inputs) == 3
    assert torch.equal(block.inputs[0], torch.ones(SHAPE))

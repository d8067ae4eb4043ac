"""Slices of the tokens for several GPUs: nothing is lost or done twice, whatever the sizes."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.constants import HEADS, KEYS
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt
from wan_s2v_pack.wan_s2v_model.transformer.shards import OverHeads, OverKeys, Part, SelfAttention, Shards, bounds, rows, video_order

CPU = torch.device("cpu")
SIZES = [(20, 1560, 2314), (20, 1, 0), (3, 7, 5), (2, 24, 34)]  # latent frames, tokens of each, motion tokens
SHARES = [(1.0,), (1.0, 1.0), (1.0,) * 3, (1.0,) * 5, (1.0,) * 8, (3.0, 1.0), (0.7, 0.2, 0.1)]


def shards_of(size, shares):
    frames, frame, motion = size
    return Shards.of_clip(frames, frames * frame, (frames + 1) * frame + motion, shares)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shares", SHARES)
def test_every_token_belongs_to_one_member(size, shares):
    shards = shards_of(size, shares)
    parts = [rows(shards, member, CPU) for member in range(len(shares))]
    assert torch.cat(parts).sort().values.tolist() == list(range(sum(shards.counts)))
    assert [len(part) for part in parts] == shards.counts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shares", SHARES)
def test_each_has_equally_many_tokens_of_every_frame_in_front_of_the_others(size, shares):
    frames, frame, _ = size
    shards = shards_of(size, shares)
    for member, count in enumerate(shards.video_counts):
        own = rows(shards, member, CPU)
        assert torch.bincount(own[:count] // frame, minlength=frames).unique().numel() == 1
        assert (own[count:] >= frames * frame).all()


@pytest.mark.parametrize("shares", SHARES)
def test_video_is_put_in_order(shares):
    shards = shards_of((3, 7, 5), shares)
    there = torch.cat([rows(shards, member, CPU)[:count] for member, count in enumerate(shards.video_counts)])
    assert there[video_order(shards, CPU)].tolist() == list(range(21))


def test_work_is_cut_by_the_shares():
    assert bounds(40, (1.0, 1.0, 1.0)) == [0, 13, 27, 40]
    assert bounds(1560, (3.0, 1.0)) == [0, 1170, 1560]
    assert bounds(1, (1.0, 1.0, 1.0)) == [0, 0, 1, 1]


def test_frames_and_motion_are_cut_at_even_places():
    """Products in float8 need even rows."""
    shards = Shards.of_clip(2, 48, 48 + 24 + 34, (1.0, 1.0, 1.0))
    assert shards.groups == ((2, 24), (1, 24), (1, 34))
    assert shards.video_counts == [16, 16, 16]
    assert shards.counts == [24 + 12, 24 + 10, 24 + 12]
    assert Shards.of_clip(2, 28, 42, (1.0, 1.0, 1.0)).video_counts == [8, 12, 8], "14 tokens are cut at 4 and 10"


@pytest.mark.parametrize(
    ("over", "heads", "kind"), [(KEYS, 2, OverKeys), (HEADS, 1, OverKeys), (HEADS, 2, OverHeads), (HEADS, 3, OverHeads)]
)
def test_heads_are_exchanged_where_each_member_gets_one(over, heads, kind):
    """Only keys travel in float8."""
    shards = shards_of((2, 24, 34), (1.0, 1.0))
    crew = Crew([CPU] * 2, Halt(), over=over)
    found = []

    def work(member):
        part = Part(member, shards, CPU)
        attention = part.self_attention(heads)
        found.append((type(attention), attention.exchanges, part.takes_float8(heads), part.num_keys))
        return torch.zeros(1)

    crew.run(work)
    crew.close()
    assert found == [(kind, True, kind is OverKeys, sum(shards.counts))] * 2


def test_a_part_takes_what_belongs_to_its_own_video_tokens():
    shards = shards_of((2, 24, 34), (3.0, 1.0))
    crew = Crew([CPU] * 2, Halt(), shares=shards.shares)
    found = {}

    def work(member):
        part = Part(member, shards, CPU)
        found[member.rank] = part.video_of(torch.arange(48).expand(2, -1)).tolist(), part.rows[: part.split].tolist()
        return torch.zeros(1)

    crew.run(work)
    crew.close()
    assert [own for own, _ in found.values()] == [[tokens] * 2 for _, tokens in found.values()]
    assert found[1][1] == [*range(18, 24), *range(42, 48)]


def test_keys_of_one_gpu_stay_where_they_are():
    attention = SelfAttention()
    assert (attention.exchanges, attention.smooths) == (False, True)
    own = torch.rand(1, 4)
    assert attention.mean(own) is own
    assert attention.largest(own) is own

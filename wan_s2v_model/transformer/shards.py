"""Which tokens of a clip each of several GPUs works on, and self attention over the tokens of all of them.

All but self attention works token by token or, where the sound is heard, latent frame by latent frame. So every member of a team takes a
slice of the tokens of *every* latent frame, and of the reference and motion tokens. Its video then is F frames of fewer tokens, and only
self attention asks the others. No token is padded, and the slices may be of unequal size.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..constants import HEADS
from ..kernels.float8 import Float8Heads

Finish = Callable[[], None]
Heads = Tensor | Float8Heads  # [B, S, heads * head_dim], or in float8
Attend = Callable[[Heads, Heads, Heads, int], Tensor]  # queries, keys, values, heads
EVEN = 2  # tokens are cut at even places: products in float8 need even rows


class Team(Protocol):
    """How a member reaches the others. All of them call the same methods in the same order.

    Attributes:
        rank: which member this is. shares: how much of the work each member does, relative to the others.
        over: KEYS or HEADS, what they exchange for self attention. key: tells this member of this team from all others.
    """

    rank: int
    key: Hashable
    shares: tuple[float, ...]
    over: str

    def exchange(self, given: Sequence[Tensor], rooms: Sequence[Tensor]) -> Finish:
        """Begin to give given[m] to each member m, and to fill rooms[m] with what m gives; own entries are left alone.

        Returns:
            To be called before the rooms are read; behind it what was given may be overwritten.
        """
        ...


def bounds(size: int, shares: Sequence[float], multiple: int = 1) -> list[int]:
    """Where to cut `size` things in these proportions, at multiples of something: len(shares) + 1 places, from 0 to `size`."""
    total = sum(shares)
    places = [multiple * round(size * done / total / multiple) for done in accumulate(shares, initial=0.0)]
    return [*(min(place, size) for place in places[:-1]), size]


@dataclass(frozen=True)
class Shards:
    """The tokens of a clip over the members of a team.

    Attributes:
        groups: (copies, tokens) of video (F, n), reference (1, n) and motion (1, m); each member has its slice of every copy.
        shares: as of the team.
    """

    groups: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]

    @classmethod
    def of_clip(cls, num_latent_frames: int, video_tokens: int, tokens: int, shares: tuple[float, ...]) -> "Shards":
        """The shards of a sequence of video, reference and motion tokens."""
        frame = video_tokens // num_latent_frames
        return cls(((num_latent_frames, frame), (1, frame), (1, tokens - video_tokens - frame)), shares)

    @cached_property
    def counts(self) -> list[int]:
        """Tokens of each member."""
        return self._counts(self.groups)

    @cached_property
    def video_counts(self) -> list[int]:
        """Video tokens of each member, which come first."""
        return self._counts(self.groups[:1])

    def _counts(self, groups: tuple[tuple[int, int], ...]) -> list[int]:
        cuts = [(copies, bounds(tokens, self.shares, EVEN)) for copies, tokens in groups]
        return [sum(copies * (cut[member + 1] - cut[member]) for copies, cut in cuts) for member in range(len(self.shares))]


@functools.lru_cache(maxsize=32)
def rows(shards: Shards, member: int, device: torch.device) -> Tensor:
    """Places in the whole sequence of a member's tokens, in its order: [counts[member]] int64."""
    parts, start = [], 0
    for copies, tokens in shards.groups:
        cut = bounds(tokens, shards.shares, EVEN)
        places = start + torch.arange(copies * tokens).view(copies, tokens)
        parts.append(places[:, cut[member] : cut[member + 1]].flatten())
        start += copies * tokens
    return torch.cat(parts).to(device)


@functools.lru_cache(maxsize=32)
def video_order(shards: Shards, device: torch.device) -> Tensor:
    """Where each video token is when those of the members stand one behind the other: [F * n] int64."""
    parts = [rows(shards, member, device)[:count] for member, count in enumerate(shards.video_counts)]
    return torch.cat(parts).argsort()


class SelfAttention:
    """Attention of one GPU to keys and values of its own.

    Attributes:
        exchanges: whether keys and values travel, so that they should be taken as early as can be.
        smooths: whether keys in float8 are taken less their mean.
    """

    exchanges = False
    smooths = True

    def take_keys(self, keys: Heads) -> None:
        self._keys = keys

    def take_values(self, values: Heads) -> None:
        self._values = values

    def mean(self, own: Tensor) -> Tensor:
        """The mean over all members of something of each."""
        return own

    def largest(self, own: Tensor) -> Tensor:
        """The largest of all members."""
        return own

    def ask(self, queries: Heads, attend: Attend, heads: int, only_video: bool) -> Tensor:
        """[B, Q, dim] -> [B, Q, dim]; queries of all tokens, or of the video tokens only."""
        return attend(queries, self._keys, self._values, heads)


class KeysElsewhere(Protocol):
    """Where keys and values are, when they are not those of the tokens of one call alone.

    Attributes:
        num_keys: that a query sees.
    """

    @property
    def num_keys(self) -> int: ...

    def takes_float8(self, heads: int) -> bool:
        """Whether queries, keys and values may be in float8 here."""
        ...

    def self_attention(self, heads: int) -> SelfAttention:
        """With all these keys."""
        ...


class Exchanged(SelfAttention):
    """Base of attention over several GPUs."""

    exchanges = True

    def __init__(self, team: Team, shards: Shards):
        self._team, self._shards = team, shards

    def mean(self, own: Tensor) -> Tensor:
        return self._of_each(own).mean(dim=1)

    def largest(self, own: Tensor) -> Tensor:
        return self._of_each(own).amax(dim=1)

    def _of_each(self, own: Tensor) -> Tensor:
        """[B, C] -> [B, members, C]."""
        return gather(self._team, [1] * len(self._team.shares), own[:, None])()


class OverKeys(Exchanged):
    """Keys and values of all members come to each, which asks for its own queries: any number of heads.

    They travel while the next product is computed. Keys stand member by member: to attention their order is all the same.
    """

    def take_keys(self, keys: Heads) -> None:
        self._all_keys = self._gather(keys)

    def take_values(self, values: Heads) -> None:
        self._all_values = self._gather(values)

    @torch.compiler.disable
    def ask(self, queries: Heads, attend: Attend, heads: int, only_video: bool) -> Tensor:
        return attend(queries, self._all_keys(), self._all_values(), heads)

    def _gather(self, own: Heads) -> Callable[[], Heads]:
        if isinstance(own, Tensor):
            return gather(self._team, self._shards.counts, own)
        whole, scale = gather(self._team, self._shards.counts, own.values), own.scale  # all members have the same scales
        return lambda: Float8Heads(whole(), scale)


class OverHeads(Exchanged):
    """Every member asks with the queries of all for some of the heads (Ulysses): queries, keys, values and result travel.

    That is less than `OverKeys` sends from four members on. Members may have unequal numbers of heads.
    """

    def __init__(self, team: Team, shards: Shards, heads: int):
        super().__init__(team, shards)
        self._cut = bounds(heads, team.shares)
        self._own_heads = self._cut[team.rank + 1] - self._cut[team.rank]

    def take_keys(self, keys: Heads) -> None:
        self._all_keys = self._to_heads(keys, self._shards.counts)

    def take_values(self, values: Heads) -> None:
        self._all_values = self._to_heads(values, self._shards.counts)

    @torch.compiler.disable
    def ask(self, queries: Heads, attend: Attend, heads: int, only_video: bool) -> Tensor:
        counts = self._shards.video_counts if only_video else self._shards.counts
        assert isinstance(queries, Tensor)
        asked = self._to_heads(queries, counts)()
        keys, values = self._all_keys(), self._all_values()
        found = attend(asked, keys, values, self._own_heads) if self._own_heads else asked
        return self._to_tokens(found, counts, queries)

    @torch.compiler.disable
    def _to_heads(self, tokens: Heads, counts: list[int]) -> Callable[[], Tensor]:
        """[B, own tokens, dim] -> [B, tokens of all, own heads * head_dim]."""
        assert isinstance(tokens, Tensor)  # in float8 they would need the scales of the heads, too
        given = [part.contiguous() for part in tokens.split(self._widths(tokens), dim=2)]
        own = given[self._team.rank]
        whole = own.new_empty(own.shape[0], sum(counts), own.shape[2])
        rooms = whole.split(counts, dim=1)
        rooms[self._team.rank].copy_(own)
        return _finished(whole, self._team.exchange(given, rooms))

    def _to_tokens(self, found: Tensor, counts: list[int], queries: Tensor) -> Tensor:
        """[B, queries of all, own heads * head_dim] -> [B, own queries, dim]."""
        given = found.split(counts, dim=1)
        rooms = [queries.new_empty(*queries.shape[:2], width) for width in self._widths(queries)]
        rooms[self._team.rank] = given[self._team.rank]
        self._team.exchange(given, rooms)()
        return torch.cat(rooms, dim=2)

    def _widths(self, tokens: Tensor) -> list[int]:
        """Channels of each member's heads."""
        head_dim = tokens.shape[2] // self._cut[-1]
        return [head_dim * (end - start) for start, end in pairwise(self._cut)]


class Part:
    """What one member of a team does of a clip.

    Attributes:
        split: its video tokens, which come first. rows: places of all its tokens in the whole sequence, [S] int64.
    """

    def __init__(self, team: Team, shards: Shards, device: torch.device):
        self._team, self._shards = team, shards
        self.split = shards.video_counts[team.rank]
        self.rows = rows(shards, team.rank, device)

    def video_of(self, values: Tensor) -> Tensor:
        """What belongs to its own video tokens, of something of all of them on the CPU: [..., F * n] -> [..., split]."""
        return values[..., rows(self._shards, self._team.rank, torch.device("cpu"))[: self.split]]

    @property
    def num_keys(self) -> int:
        """Tokens of all members."""
        return sum(self._shards.counts)

    def takes_float8(self, heads: int) -> bool:
        """Whether queries, keys and values may be in float8 here."""
        return not self._is_over_heads(heads)

    @property
    def place(self) -> Hashable:
        """Tells parts apart."""
        return self._team.key, self._shards

    def self_attention(self, heads: int) -> SelfAttention:
        """With the keys of all members."""
        if self._is_over_heads(heads):
            return OverHeads(self._team, self._shards, heads)
        return OverKeys(self._team, self._shards)

    def _is_over_heads(self, heads: int) -> bool:
        return self._team.over == HEADS and heads >= len(self._team.shares)

    def gather_video(self, own: Tensor) -> Tensor:
        """What all members made of their video tokens, each [B, its tokens, C], in the order of the video: [B, F * n, C]."""
        whole = gather(self._team, self._shards.video_counts, own)()
        return whole[:, video_order(self._shards, whole.device)]


@torch.compiler.disable
def gather(team: Team, counts: Sequence[int], own: Tensor) -> Callable[[], Tensor]:
    """Begin to bring together what all members have, each [B, counts[m], C]; the function returns it, member by member: [B, sum, C]."""
    whole = own.new_empty(own.shape[0], sum(counts), *own.shape[2:])
    rooms = whole.split(list(counts), dim=1)
    rooms[team.rank].copy_(own)
    return _finished(whole, team.exchange([rooms[team.rank]] * len(counts), rooms))


def _finished(whole: Tensor, finish: Finish) -> Callable[[], Tensor]:
    def get() -> Tensor:
        finish()
        return whole

    return get

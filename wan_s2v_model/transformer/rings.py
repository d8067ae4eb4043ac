"""Keys and values that stay: of picture and motion (the sink), and of the newest latents as they were at one step (a ring).

Each layer has both in one memory, the sink first, so that attention reads a slice of it. A memory is on the GPU, or its ring waits in host
memory and comes layer by layer, each while the layer before it computes. In float8 all keys of a head share a scale that no key can exceed,
and values one that is found once: numbers of different calls stand side by side, so nothing that belongs to one call is taken off them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..kernels.float8 import FLOAT8, FLOAT8_MAX, TINY, Float8Heads, round_heads
from .shards import Attend, Heads, SelfAttention

KEYS, VALUES = range(2)  # first axis of a memory
ROOM_ABOVE_SINK = 32.0  # in float8: values of the video may be so many times as large as the largest of the sink


@dataclass(frozen=True)
class Placement:
    """Where keys and values of the video are kept, and in which type.

    Attributes:
        float8: in half the bytes of bfloat16. on_host: in main memory, of which two layers are on the GPU at a time.
    """

    float8: bool = False
    on_host: bool = False

    def dtype(self, computed: torch.dtype) -> torch.dtype:
        return FLOAT8 if self.float8 else computed


class Scales(NamedTuple):
    """The float8 scales of the keys and of the values of a layer, each [1, heads] float32."""

    keys: Tensor
    values: Tensor

    @classmethod
    def of_layer(cls, key_scale: Tensor, values: Tensor) -> "Scales":
        """From the scale of the keys [heads], and the values of the sink [1, S, dim]."""
        peak = values.abs().float().unflatten(-1, (len(key_scale), -1)).amax(dim=(1, 3))  # [1, S, dim] -> [1, heads]
        return cls(key_scale[None], ROOM_ABOVE_SINK * peak.clamp(min=TINY) / FLOAT8_MAX)


class Remembered(SelfAttention):
    """Self attention of one layer to a memory, into which it writes its own keys and values first.

    Args:
        memory: [2, 1, rows, dim]. own: the rows that it writes. seen: how many rows, from the first on, are keys.
        scales: of a memory in float8; None keeps numbers as they are.
    """

    smooths = False  # the mean of the next call's keys would be another one

    def __init__(self, memory: Tensor, own: slice, seen: int, scales: Scales | None):
        self._memory, self._own, self._scales = memory, own, scales
        self.num_keys = seen

    def takes_float8(self, heads: int) -> bool:
        """Not numbers that are kept as they are: that would take a pass over all of them."""
        return self._scales is not None

    def self_attention(self, heads: int) -> SelfAttention:
        return self

    def take_keys(self, keys: Heads) -> None:
        write(self._memory, KEYS, self._own, keys, self._scales)

    def take_values(self, values: Heads) -> None:
        write(self._memory, VALUES, self._own, values, self._scales)

    def ask(self, queries: Heads, attend: Attend, heads: int, only_video: bool) -> Tensor:
        keys, values = (self._seen(kind, queries, heads) for kind in (KEYS, VALUES))
        return attend(queries, keys, values, heads)

    def _seen(self, kind: int, queries: Heads, heads: int) -> Heads:
        """Keys or values in the type of the queries."""
        kept = self._memory[kind, :, : self.num_keys]
        if self._scales is None:
            return kept
        in_float8 = Float8Heads(kept.unflatten(-1, (heads, -1)), self._scales[kind])
        return in_float8 if isinstance(queries, Float8Heads) else in_float8.to(queries.dtype).flatten(2)


def write(memory: Tensor, kind: int, rows: slice, given: Heads, scales: Scales | None) -> None:
    """Put keys or values [1, S, dim] into rows of a memory [2, 1, ..., dim]; with scales in float8."""
    if scales is not None and isinstance(given, Tensor):
        given = round_heads(given, scales[kind])
    memory[kind, :, rows] = given.values.flatten(2) if isinstance(given, Float8Heads) else given


@dataclass(frozen=True)
class Shape:
    """Of the memory of one layer: tokens of the sink and of the ring, and channels."""

    sink: int
    ring: int
    dim: int

    def empty(self, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[2, 1, rows, dim] zeros: an empty ring may be looked at."""
        return torch.zeros(2, 1, rows, self.dim, dtype=dtype, device=device)


class Memories(Protocol):
    """The memories of all layers for one step."""

    def set_sink(self, layer: int, sink: Tensor) -> None:
        """[2, 1, sink, dim]."""
        ...

    def open(self, layer: int, seen: int) -> Tensor:
        """[2, 1, sink + ring, dim] on the device, of which the first `seen` rows are valid. Layers are opened in order."""
        ...

    def close(self, layer: int, own: slice) -> None:
        """The rows `own` of the opened memory are new."""
        ...

    def clear(self) -> None:
        """Empty the ring."""
        ...


class OnDevice:
    """Memories that stay where they are read."""

    def __init__(self, shape: Shape, layers: int, dtype: torch.dtype, device: torch.device):
        self._shape = shape
        self._memories = [shape.empty(shape.sink + shape.ring, dtype, device) for _ in range(layers)]

    def set_sink(self, layer: int, sink: Tensor) -> None:
        self._memories[layer][:, :, : self._shape.sink] = sink

    def open(self, layer: int, seen: int) -> Tensor:
        return self._memories[layer]

    def close(self, layer: int, own: slice) -> None:
        """Nothing to do."""

    def clear(self) -> None:
        for memory in self._memories:
            memory[:, :, self._shape.sink :].zero_()


class Desks:
    """Two memories on the device, at which the layers of all steps take turns, and the stream that fetches into them.

    Attributes:
        sinks: [2, 1, sink, dim] of each layer, the same for all steps.
    """

    def __init__(self, shape: Shape, layers: int, dtype: torch.dtype, device: torch.device):
        self.rooms = [shape.empty(shape.sink + shape.ring, dtype, device) for _ in range(2)]
        self.sinks = [shape.empty(shape.sink, dtype, device) for _ in range(layers)]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._fetched: list[torch.cuda.Event | None] = [None, None]

    def fetch(self, layer: int, ring: Tensor) -> None:
        """Begin to lay the sink and a ring [2, 1, rows, dim] of host memory on the desk of a layer, behind what the device does so far."""
        desk, sink = layer % 2, self.sinks[layer]
        with self._beside():
            _copy(self.rooms[desk][:, :, : sink.shape[2]], sink)
            _copy(self.rooms[desk][:, :, sink.shape[2] : sink.shape[2] + ring.shape[2]], ring)
            self._fetched[desk] = None if self._stream is None else self._stream.record_event()

    def send(self, layer: int, rows: slice, target: Tensor) -> None:
        """Begin to copy rows of the desk of a layer into host memory."""
        with self._beside():
            _copy(target, self.rooms[layer % 2][:, :, rows])

    def ready(self, layer: int) -> Tensor:
        """The desk of a layer; the device waits until it is laid."""
        event, room = self._fetched[layer % 2], self.rooms[layer % 2]
        if event is not None:
            torch.cuda.current_stream(room.device).wait_event(event)
        return room

    def finish(self) -> None:
        """Wait until host memory is up to date."""
        if self._stream is not None:
            self._stream.synchronize()

    def _beside(self) -> AbstractContextManager:
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return torch.cuda.stream(self._stream)


class OnHost:
    """Rings in main memory.

    Args:
        desks: shared by all steps. pin: is given each ring, to pin its memory.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, desks: Desks, pin: Callable[[Tensor], object] = lambda ring: None):
        self._shape, self._desks = shape, desks
        self._rings = [shape.empty(shape.ring, dtype, torch.device("cpu")) for _ in desks.sinks]
        for ring in self._rings:
            pin(ring)

    def set_sink(self, layer: int, sink: Tensor) -> None:
        self._desks.sinks[layer].copy_(sink)

    def open(self, layer: int, seen: int) -> Tensor:
        """Begins to fetch the next layer, too, while this one computes."""
        if layer == 0:
            self._fetch(layer, seen)
        memory = self._desks.ready(layer)
        self._fetch(layer + 1, seen)
        return memory

    def close(self, layer: int, own: slice) -> None:
        ring = slice(own.start - self._shape.sink, own.stop - self._shape.sink)
        self._desks.send(layer, own, self._rings[layer][:, :, ring])

    def clear(self) -> None:
        self._desks.finish()
        for ring in self._rings:
            ring.zero_()

    def _fetch(self, layer: int, seen: int) -> None:
        if layer < len(self._rings):
            self._desks.fetch(layer, self._rings[layer][:, :, : seen - self._shape.sink])


def _copy(target: Tensor, source: Tensor) -> None:
    """Keys and values one after the other: only what is contiguous is copied without waiting."""
    for kind in (KEYS, VALUES):
        target[kind].copy_(source[kind], non_blocking=True)

"""Several GPUs on one model call: a thread of this process for each, and copies from GPU to GPU that hide behind computing.

A copy between two GPUs waits for the current streams of both and holds them up. So each pair has a stream of its own on either GPU, and
events say what a copy has to wait for and who has to wait for it. All of that is only queued: threads wait for each other at a barrier
until every one has queued its part, never for a GPU.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..constants import KEYS
from .shards import Finish

logger = logging.getLogger("wan_s2v")
TESTED_BYTES = 2**22
MEASURED_BYTES = 2**28
Result = TypeVar("Result")


class StoppedError(Exception):
    """Another member has failed; its error is the one to look at."""


class Halt:
    """Ends the calls of all crews that work for one sampler as soon as one member fails."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._barriers: set[threading.Barrier] = set()

    def watch(self, barrier: threading.Barrier) -> None:
        """Wake those who wait at this barrier when somebody fails."""
        with self._lock:
            self._barriers.add(barrier)
            if self.error is not None:
                barrier.abort()

    def forget(self, barrier: threading.Barrier) -> None:
        with self._lock:
            self._barriers.discard(barrier)

    def fail(self, error: BaseException) -> None:
        """Note the first error, and wake all who wait."""
        with self._lock:
            self.error = self.error or error
            for barrier in self._barriers:
                barrier.abort()

    def check(self) -> None:
        """Raise StoppedError if somebody has failed."""
        if self.error is not None:
            raise StoppedError


@dataclass
class _Post:
    """What a member has for the others in an exchange. On GPUs: the event behind which it is there, and the events of the copies."""

    given: Sequence[Tensor]
    ready: torch.cuda.Event | None
    copied: dict[int, torch.cuda.Event | None] = field(default_factory=dict)  # by the member from which


class Stopwatch:
    """How long a member of a crew computed in a call, and how long the call took. Nobody waits for a GPU to know it.

    Args:
        clock: tells seconds; None for events of a GPU.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] | None = None):
        self._device, self._clock = device, clock
        self._marks: list[Any] = []  # beginnings and ends of computing

    def mark(self) -> None:
        """Computing begins or ends."""
        if self._clock is not None:
            self._marks.append(self._clock())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    @property
    def is_over(self) -> bool:
        """Whether the GPU has done all of it."""
        return self._clock is not None or self._marks[-1].query()

    def seconds(self) -> tuple[float, float]:
        """Computing, and in all."""
        spans = zip(self._marks[::2], self._marks[1::2], strict=True)
        return sum(self._between(*span) for span in spans), self._between(self._marks[0], self._marks[-1])

    def _between(self, begin: Any, end: Any) -> float:
        return end - begin if self._clock is not None else begin.elapsed_time(end) / 1000


class _Board:
    """Where the members of a call put what they have for each other."""

    def __init__(self, size: int):
        self.size = size
        self.barrier = threading.Barrier(size)
        self.posts: dict[int, list[Any]] = {}  # by the number of the exchange

    def of_exchange(self, number: int) -> list[Any]:
        return self.posts.setdefault(number, [None] * self.size)


class Member:
    """One GPU of a crew in one call: a Team as `shards.py` wants it.

    Attributes:
        rank, shares, over, key: as of Team. device: of this member.
    """

    def __init__(self, crew: "Crew", rank: int, board: _Board, watch: Stopwatch | None = None):
        self.rank, self.shares, self.over = rank, crew.shares, crew.over
        self.key = crew, rank
        self.device = crew.devices[rank]
        self._crew, self._board, self.watch = crew, board, watch
        self._exchanges = 0

    def check(self) -> None:
        """Raise StoppedError if another member has failed."""
        self._crew.halt.check()

    def exchange(self, given: Sequence[Tensor], rooms: Sequence[Tensor]) -> Finish:
        number, self._exchanges = self._exchanges, self._exchanges + 1
        posts = self._board.of_exchange(number)
        own = posts[self.rank] = _Post(given, _mark(self.device))
        with self.timed():
            self._meet()
        for other, post in enumerate(posts):
            if other != self.rank:
                own.copied[other] = self._crew.links.copy((other, self.rank), post, own, rooms[other])

        def finish() -> None:
            with self.timed():
                self._meet()
                self._board.posts.pop(number, None)
                for other, post in enumerate(posts):
                    if other != self.rank:
                        _wait(self.device, own.copied[other], post.copied[self.rank])

        return finish

    @contextmanager
    def timed(self) -> Iterator[None]:
        """The stopwatch of this member, if it has one, begins or ends to count at the beginning and at the end of this."""
        if self.watch is not None:
            self.watch.mark()
        yield
        if self.watch is not None:
            self.watch.mark()

    def fetch(self, tensor: Tensor) -> Tensor:
        """A tensor of the leader on the GPU of this member."""
        if tensor.device == self.device:
            return tensor
        is_direct = tensor.device.type != "cuda" or copies_arrive(tensor.device, self.device)
        return (tensor if is_direct else tensor.cpu()).to(self.device)

    def _meet(self) -> None:
        try:
            self._board.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise StoppedError from error


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """An event behind all that this thread has queued on a GPU."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _wait(device: torch.device, *events: torch.cuda.Event | None) -> None:
    """What this thread queues on a GPU from now on waits for these events."""
    for event in events:
        if event is not None:
            torch.cuda.current_stream(device).wait_event(event)


class _Links:
    """The copies from member to member."""

    def __init__(self, devices: Sequence[torch.device]):
        self._devices = devices
        self._streams: dict[tuple[int, int], tuple[torch.cuda.Stream, torch.cuda.Stream]] = {}

    def copy(self, pair: tuple[int, int], giver: _Post, taker: _Post, room: Tensor) -> torch.cuda.Event | None:
        """Queue a copy of what the giver has for the taker; an event tells when it is done."""
        piece = giver.given[pair[1]]
        source, target = self._devices[pair[0]], self._devices[pair[1]]
        if giver.ready is None or taker.ready is None:
            room.copy_(piece)
            return None
        there, here = self._of_pair(pair)
        there.wait_event(giver.ready)
        here.wait_event(taker.ready)
        copy = _copy if copies_arrive(source, target) else _copy_over_host
        for part, whole in zip(room.unbind(), piece.unbind(), strict=True):  # one entry of a batch is in one piece
            copy(part, whole, there, here)
        return here.record_event()

    def _of_pair(self, pair: tuple[int, int]) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        if pair not in self._streams:
            source, target = (self._devices[rank] for rank in pair)
            self._streams[pair] = torch.cuda.Stream(source), torch.cuda.Stream(target)
        return self._streams[pair]


def _copy(room: Tensor, piece: Tensor, there: torch.cuda.Stream, here: torch.cuda.Stream) -> None:
    with torch.cuda.stream(there), torch.cuda.stream(here):
        room.copy_(piece, non_blocking=True)


def _copy_over_host(room: Tensor, piece: Tensor, there: torch.cuda.Stream, here: torch.cuda.Stream) -> None:
    with torch.cuda.stream(there):
        waiting = torch.empty(piece.shape, dtype=piece.dtype, pin_memory=True)
        waiting.copy_(piece, non_blocking=True)
        here.wait_event(there.record_event())
    with torch.cuda.stream(here):
        room.copy_(waiting, non_blocking=True)


@functools.cache
def copies_arrive(source: torch.device, target: torch.device) -> bool:
    """Whether what is copied from one GPU to another is there: drivers exist that promise it and lose it. Found out once."""
    sent = torch.arange(TESTED_BYTES // 4, device=source, dtype=torch.int32)
    for _ in range(2):
        got = torch.zeros_like(sent, device=target)
        torch.cuda.synchronize(target)
        got.copy_(sent)
        torch.cuda.synchronize(source)
        torch.cuda.synchronize(target)
        if not torch.equal(got.cpu(), sent.cpu()):
            logger.warning("copies from %s to %s get lost: main memory carries them, which is slow", source, target)
            return False
        sent = sent.flip(0)
    return True


def copy_speed(source: torch.device, target: torch.device, size: int = MEASURED_BYTES) -> float:
    """Bytes per second from one GPU to another, as a crew copies so many."""
    post = _Post([torch.empty(1, size, dtype=torch.uint8, device=source)] * 2, _mark(source))
    room = torch.empty(1, size, dtype=torch.uint8, device=target)
    links, taker = _Links([source, target]), _Post([], _mark(target))

    def seconds(copies: int) -> float:
        start = time.perf_counter()
        for _ in range(copies):
            links.copy((0, 1), post, taker, room)
        torch.cuda.synchronize(target)
        return time.perf_counter() - start

    seconds(1)
    return 4 * size / seconds(4)


class Crew:
    """The members that work together on model calls: the leader in the calling thread, and a thread for each of the others.

    Args:
        devices: of the members, the leader's first; on the CPU it may be there several times.
        halt: shared by all crews of a sampler. shares: how much each does, relative to the others; None: all the same.
        over: KEYS or HEADS, what they exchange for self attention. Both may be set anew between calls.
    """

    def __init__(self, devices: Sequence[torch.device], halt: Halt, shares: tuple[float, ...] | None = None, over: str = KEYS):
        self.devices = list(devices)
        self.halt = halt
        self.shares = shares or (1.0,) * len(self.devices)
        self.over = over
        self.links = _Links(self.devices)
        self._threads = [ThreadPoolExecutor(1, f"wan_s2v {device}", _use_device, (device,)) for device in self.devices[1:]]

    def run(self, work: Callable[[Member], Result], watches: Sequence[Stopwatch] | None = None) -> Result:
        """What the leader returns of `work`, which all members do at once.

        Args:
            watches: one for each member, which times it.
        Raises:
            BaseException: what any member of any crew with the same halt has raised.
        """
        with self.begun(work, watches) as lead:
            result = lead()
        return cast(Result, result)

    @contextmanager
    def begun(self, work: Callable[[Member], Result], watches: Sequence[Stopwatch] | None = None) -> Iterator[Callable[[], Result | None]]:
        """The same, with time for the leader: the others begin, and the function that this gives does the part of the leader.

        Behind the context all are through. An error in it ends what the others do.
        """
        self._test_copies()
        board, modes = _Board(len(self.devices)), (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        timed = [None] * len(self.devices) if watches is None else watches
        members = [Member(self, rank, board, watch) for rank, watch in enumerate(timed)]
        others: list[Future[Result | None]] = []
        self.halt.watch(board.barrier)
        try:
            for thread, member in zip(self._threads, members[1:], strict=True):
                others.append(thread.submit(self._work, member, work, modes, _mark(self.devices[0])))
            yield lambda: self._work(members[0], work, modes, None)
        except BaseException as error:
            self.halt.fail(error)
            raise
        finally:
            for other in others:
                other.result()
            self.halt.forget(board.barrier)
        if self.halt.error is not None:
            raise self.halt.error

    def close(self) -> None:
        """End the threads."""
        for thread in self._threads:
            thread.shutdown()
        self.halt.error = None  # which would hold the frames of its traceback

    def _work(
        self, member: Member, work: Callable[[Member], Result], modes: tuple[bool, bool], ready: torch.cuda.Event | None
    ) -> Result | None:
        inference, grad = modes
        try:
            with torch.inference_mode() if inference else nullcontext(), torch.set_grad_enabled(grad):
                _wait(member.device, ready)
                with member.timed():
                    return work(member)
        except StoppedError:
            _finish_copies(member.device)
            return None
        except BaseException as error:  # noqa: BLE001, ComfyUI's interrupt is one; `run` raises it
            self.halt.fail(error)
            _finish_copies(member.device)
            return None

    def _test_copies(self) -> None:
        """In the thread of the leader, for the first copy between two GPUs changes how they are set up."""
        for source in self.devices:
            for target in self.devices:
                if source != target and source.type == "cuda":
                    copies_arrive(source, target)


def _finish_copies(device: torch.device) -> None:
    """Wait for copies that are on their way, as long as the error holds their tensors."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # a lost GPU
            torch.cuda.synchronize(device)


def _use_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)

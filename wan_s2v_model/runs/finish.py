"""The clips that a run does not have yet, one after the other: sampled, decoded, stored, and only then handed on."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from ..conditioning.plan import Plan
from ..constants import MOTION_FRAMES
from ..sampling.clip_loop import ClipResult, Decode, Encode, MotionState, Sample, find_anchor, first_state, run_clips
from ..sampling.progress import clip_place
from .store import RunStore

logger = logging.getLogger("wan_s2v")
Result = TypeVar("Result")
GIGABYTE = 1e9


class Stopwatch:
    """Seconds spent in each kind of work on the current clip."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, work: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, with its time counted under the name of the work."""

        def run(*arguments: object) -> Result:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds[work] = self.seconds.get(work, 0.0) + time.perf_counter() - start

        return run

    def report(self) -> str:
        """What was spent since the last report: sampled 301.2 s, decoded 9.1 s."""
        text = ", ".join(f"{work} {seconds:.1f} s" for work, seconds in self.seconds.items())
        self.seconds.clear()
        return text


def finish_run(
    store: RunStore,
    plan: Plan,
    seed: int,
    *,
    sample: Sample,
    encode: Encode,
    decode: Decode,
    consume: Callable[[int], None] = lambda clip: None,
    peak_bytes: Callable[[], float | None] = lambda: None,
) -> None:
    """Make the clips that the store does not have yet.

    Args:
        sample, encode, decode: as in `run_clips`.
        consume: is told the number of each new clip once it is safe on the disk, in the thread that wrote it while the next one is sampled.
        peak_bytes: most device memory taken since the last call, for the log; None where it is not known.
    Raises:
        ValueError: the model produced NaN or infinite latents; the clips before are kept.
        RunStoreError: a clip could not be stored; the clips before are kept.
    """
    watch = Stopwatch()
    work = {
        "sample": watch.timed("sampled", sample),
        "decode": watch.timed("decoded", lambda latents: decode(_require_finite(latents))),
        "encode": watch.timed("encoded", encode),
    }

    def keep(result: ClipResult, spent: str, memory: str) -> None:
        start = time.perf_counter()
        _store(store, plan, result)
        spent = f"{spent}, written {time.perf_counter() - start:.1f} s{memory}"
        place = clip_place(result.clip, plan.timeline.num_clips)
        logger.info("%s finished: %d frames; %s", place, result.frames.shape[0], spent)
        consume(result.clip)

    with Background("store") as writer:
        for result in run_clips(plan, _next_state(store, plan, work["encode"], work["decode"]), seed, **work):  # type: ignore[arg-type]
            peak = peak_bytes()
            memory = "" if peak is None else f"; at most {peak / GIGABYTE:.1f} GB of device memory"
            writer.run(partial(keep, result, watch.report(), memory))


def _next_state(store: RunStore, plan: Plan, encode: Encode, decode: Decode) -> MotionState:
    """Where to go on: at the start, or behind the last finished clip."""
    clip = store.num_finished
    if clip == 0:
        return first_state(plan, encode)
    logger.info("continuing the run at clip %d of %d", clip + 1, plan.timeline.num_clips)
    history = store.read_history(clip - 1)
    if history is None:  # whole clips replace the history, so its content no longer matters
        history = torch.zeros(MOTION_FRAMES, plan.height, plan.width, 3)
    anchor = find_anchor(plan, store.read_latents(0)[None], decode)
    return MotionState(clip, history, store.read_motion_latents(clip - 1), anchor)


def _store(store: RunStore, plan: Plan, result: ClipResult) -> None:
    is_short = plan.timeline.frames_per_clip < MOTION_FRAMES
    store.write_clip(
        result.clip,
        latents=result.latents[0],
        motion_latents=result.state.motion_latents,
        frames=_bytes_of(result.frames),
        history=result.state.history if is_short else None,
    )


def _bytes_of(frames: Tensor) -> Tensor:
    """Frames in [0, 1] -> uint8, truncated as the reference writes them; one after the other, which needs a third of the time."""
    out = torch.empty(frames.shape, dtype=torch.uint8)
    for done, frame in zip(out, frames, strict=True):
        done.copy_(frame * 255)
    return out


def _require_finite(latents: Tensor) -> Tensor:
    if not torch.isfinite(latents).all():
        raise ValueError(
            "The model produced NaN or infinite latents, so this clip was not saved. Check the model file, remove LoRAs, "
            "or set attention to comfyui and weight_dtype to bf16 in Load Wan S2V Model."
        )
    return latents


class Background:
    """A thread for tasks of which at most one runs.

    Leaving the context waits for it, after a cancel too, and raises what it raised, except in place of an interrupt (which is logged).
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"wan_s2v_{name}")
        self._pending: Future[None] | None = None

    def run(self, task: Callable[[], None]) -> None:
        """Start a task, once the one before it has ended; raise what that one raised."""
        self._wait()
        self._pending = self._thread.submit(task)

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if kind is None or issubclass(kind, Exception):
            self._wait()
        elif self._pending is not None and (failure := self._pending.exception()) is not None:
            logger.error("%s", failure)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

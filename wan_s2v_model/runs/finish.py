"""The clips that a run does not have yet, one after the other: sampled, decoded, stored, and only then handed on."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..conditioning.clip import append_history
from ..conditioning.plan import Plan
from ..constants import MOTION_FRAMES
from ..sampling.clip_loop import ClipResult, Decode, Encode, MotionState, Sample, decode_clip, find_anchor, first_state, run_clips
from ..sampling.continuity import Statistics
from ..sampling.live import LiveSampler
from ..sampling.live_clips import LiveJob, live_clips
from ..sampling.progress import clip_place
from .clips import Clips
from .live_video import LiveVideo
from .manifest import clip_bytes
from .store import RunStore

SPACE_MARGIN = 1.1
logger = logging.getLogger("wan_s2v")
Result = TypeVar("Result")
GIGABYTE = 1e9


class NotFiniteError(ValueError):
    """The model made no picture."""


class Networks(NamedTuple):
    """What makes a clip, as for `run_clips`; `dtype`: in which the model computes, where that is known."""

    sample: Sample
    encode: Encode
    decode: Decode
    dtype: torch.dtype | None = None


def video_in_progress(store: RunStore, plan: Plan, show: Callable[[Path], None]) -> LiveVideo:
    """The video of a run so far, a context manager. What is streamed from it stays as it is for as long as it is open.

    Args:
        show: is given its file whenever it has grown.
    """
    return LiveVideo(Clips(store, plan, delete_with_handle=False), store.num_finished, show, store.shown)


def _show_stored(store: RunStore, live: LiveVideo, clip: int) -> None:
    live.consume(clip)
    store.shown = live.shown


def finish_and_show(
    store: RunStore,
    plan: Plan,
    seed: int,
    networks: Networks,
    *,
    show: Callable[[Path], None],
    peak_bytes: Callable[[], float | None],
) -> None:
    """Make the clips that the store does not have yet, with a video in progress.

    Args:
        show: as for `video_in_progress`. peak_bytes: as for `finish_run`, which also says the errors.
    """
    with video_in_progress(store, plan, show) as live:
        sample, encode, decode, dtype = networks
        work = {"sample": sample, "encode": encode, "decode": decode}
        try:
            show_clip = partial(_show_stored, store, live)
            finish_run(store, plan, seed, **work, on_stored=show_clip, peak_bytes=peak_bytes)  # type: ignore[arg-type]
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}{_words_about(dtype)}") from error


class LiveNetworks(NamedTuple):
    """What makes a live video, as for `live_clips`; `dtype`: in which the model computes, where that is known."""

    sampler: LiveSampler
    encode: Encode
    open_decoder: Callable[[], Decode]
    dtype: torch.dtype | None = None


def finish_live(store: RunStore, job: LiveJob, networks: LiveNetworks, live: LiveVideo, *, peak_bytes: Callable[[], float | None]) -> None:
    """Make the clips of a live video that the store does not have yet.

    Args:
        live: of `video_in_progress`; grows with every block. peak_bytes: as for `finish_run`, which also says the errors.
    """
    watch, seen = Stopwatch(), Counter[int]()

    def on_frames(clip: int, frames: Tensor) -> None:
        live.consume_frames(clip, seen[clip], bytes_of(frames))
        seen[clip] += len(frames)

    def open_decoder() -> Decode:
        decode = networks.open_decoder()
        return watch.timed("decoded", lambda latents: decode(require_finite(latents)))

    encode = watch.timed("encoded", networks.encode)
    clips = live_clips(job, networks.sampler, store, encode=encode, open_decoder=open_decoder, on_frames=on_frames)
    try:
        store_clips(store, job.plan, clips, watch, on_stored=partial(_show_stored, store, live), peak_bytes=peak_bytes)
    except NotFiniteError as error:
        raise NotFiniteError(f"{error}{_words_about(networks.dtype)}") from error


def run_bytes(plan: Plan, first_clip: int = 0, later_steps: int = 0) -> int:
    """Bytes that the clips from `first_clip` on take on the disk; later_steps: as of `clip_shapes`."""
    sizes = plan.height, plan.width
    timeline = plan.timeline
    last = timeline.num_clips - 1
    return sum(
        clip_bytes(timeline.clip_frames(clip), timeline.frames_per_clip, *sizes, has_next=clip < last, later_steps=later_steps)
        for clip in range(first_clip, timeline.num_clips)
    )


def require_space(store: RunStore, plan: Plan, later_steps: int = 0) -> None:
    """Raise OSError, before any time is spent on sampling, if the clips that are not stored yet will not fit on the disk."""
    needed = int(SPACE_MARGIN * run_bytes(plan, store.num_finished, later_steps))
    free = shutil.disk_usage(store.folder).free
    if free < needed:
        advice = "Make room or use a shorter sound." if store.num_finished == 0 else "Make room, then queue again to go on."
        raise OSError(f"The frames need {_size(needed)}, but only {_size(free)} are free in {store.folder}. {advice}")


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIGABYTE:.2f} GB" if num_bytes >= GIGABYTE / 20 else f"{num_bytes / 1e6:.1f} MB"


def finish_run(
    store: RunStore,
    plan: Plan,
    seed: int,
    *,
    sample: Sample,
    encode: Encode,
    decode: Decode,
    on_stored: Callable[[int], None] = lambda clip: None,
    peak_bytes: Callable[[], float | None] = lambda: None,
) -> None:
    """Make the clips that the store does not have yet.

    Args:
        sample, encode, decode: as in `run_clips`.
        on_stored: is called with the number of each new clip once it is safe on the disk, in the thread that wrote it while the next one is
            sampled.
        peak_bytes: most device memory taken since the last call, for the log; None where it is not known.
    Raises:
        NotFiniteError: the model produced NaN or infinite latents; the clips before are kept.
        RunStoreError: a clip could not be stored; the clips before are kept.
    """
    watch = Stopwatch()
    work = {
        "sample": watch.timed("sampled", sample),
        "decode": watch.timed("decoded", lambda latents: decode(require_finite(latents))),
        "encode": watch.timed("encoded", encode),
    }
    clips = run_clips(plan, _next_state(store, plan, work["encode"], work["decode"]), seed, **work)  # type: ignore[arg-type]
    store_clips(store, plan, clips, watch, on_stored=on_stored, peak_bytes=peak_bytes)


def store_clips(
    store: RunStore,
    plan: Plan,
    clips: Iterable[ClipResult],
    watch: "Stopwatch",
    *,
    on_stored: Callable[[int], None],
    peak_bytes: Callable[[], float | None],
) -> None:
    """Store clips as they are made, each while the next one is made; arguments and errors as of `finish_run`."""

    def store_clip(result: ClipResult, spent: str, memory: str) -> None:
        start = time.perf_counter()
        _store(store, plan, result)
        spent = f"{spent}, written {time.perf_counter() - start:.1f} s{memory}"
        place = clip_place(result.clip, plan.timeline.num_clips)
        logger.info("%s finished: %d frames; %s", place, result.frames.shape[0], spent)
        on_stored(result.clip)

    with BackgroundWorker("store") as writer:
        for result in clips:
            peak = peak_bytes()
            memory = "" if peak is None else f"; at most {peak / GIGABYTE:.1f} GB of device memory"
            writer.submit(partial(store_clip, result, watch.report(), memory))


def _next_state(store: RunStore, plan: Plan, encode: Encode, decode: Decode) -> MotionState:
    """Where to go on: at the start, or behind the last finished clip."""
    clip = store.num_finished
    if clip == 0:
        return first_state(plan, encode)
    logger.info("continuing the run at %s", clip_place(clip, plan.timeline.num_clips))
    anchor = find_anchor(plan, store.read_latents(0)[None], decode)
    return MotionState(clip, _history(store, plan, encode, decode, anchor), store.read_motion_latents(clip - 1), anchor)


def _history(store: RunStore, plan: Plan, encode: Encode, decode: Decode, anchor: Statistics | None) -> Tensor:
    """[73, H, W, 3]: the newest frames, decoded again as they were; black where whole clips replace them before anybody looks."""
    end, frames_per_clip = store.num_finished, plan.timeline.frames_per_clip
    unseen = torch.zeros(MOTION_FRAMES, plan.height, plan.width, 3)
    if frames_per_clip >= MOTION_FRAMES:
        return unseen
    stored = store.read_history(end - 1)
    if stored is not None:
        return stored
    first = max(0, end - -(-MOTION_FRAMES // frames_per_clip))
    start = first_state(plan, encode) if first == 0 else MotionState(first, unseen, store.read_motion_latents(first - 1))
    history, motion_latents = start.history, start.motion_latents
    for clip in range(first, end):
        frames = decode_clip(plan, clip, store.read_latents(clip)[None], motion_latents, decode, anchor)
        history, motion_latents = append_history(history, frames), store.read_motion_latents(clip)
    return history


def _store(store: RunStore, plan: Plan, result: ClipResult) -> None:
    has_next = result.state.clip < plan.timeline.num_clips
    store.write_clip(
        result.clip,
        latents=result.latents[0],
        motion_latents=result.state.motion_latents if has_next else None,
        frames=bytes_of(result.frames),
        step_inputs=result.step_inputs,
    )


def bytes_of(frames: Tensor) -> Tensor:
    """Frames in [0, 1] -> uint8, truncated as the reference writes them; one after the other, which needs a third of the time."""
    out = torch.empty(frames.shape, dtype=torch.uint8)
    for done, frame in zip(out, frames, strict=True):
        done.copy_(frame * 255)
    return out


def require_finite(latents: Tensor) -> Tensor:
    if not torch.isfinite(latents).all():
        raise NotFiniteError(
            "The model produced NaN or infinite latents, so this clip was not saved. Check the model file, remove LoRAs, "
            "or set attention to comfyui and weight_dtype to bf16 in Load Wan S2V Model."
        )
    return latents


def _words_about(dtype: torch.dtype | None) -> str:
    if dtype is None:
        return ""
    name, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
    beyond = f", whose numbers end at {largest:,.0f}: bf16 or fp32 go further" if dtype == torch.float16 else ""
    return f" It computed in {name}{beyond}."


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


class BackgroundWorker:
    """A thread that runs one task after the other; the next one waits for the one before.

    Leaving the context waits for it, after a cancel too, and raises what it raised, except in place of an interrupt (which is logged).
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"wan_s2v_{name}")
        self._pending: Future[None] | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Start a task, once the one before it has ended; raise what that one raised."""
        self._wait()
        self._pending = self._thread.submit(task)

    def __enter__(self) -> "BackgroundWorker":
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

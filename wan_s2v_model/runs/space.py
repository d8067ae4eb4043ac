"""Whether the disk has room for the clips that a run lacks."""

import shutil

from ..conditioning.plan import Plan
from .manifest import clip_bytes
from .store import RunStore

SPACE_MARGIN = 1.1


def run_bytes(plan: Plan, first_clip: int = 0) -> int:
    """Bytes that the clips from `first_clip` on take on the disk."""
    timeline = plan.timeline
    last = timeline.num_clips - 1
    return sum(
        clip_bytes(timeline.clip_frames(clip), timeline.frames_per_clip, plan.height, plan.width, has_next=clip < last)
        for clip in range(first_clip, timeline.num_clips)
    )


def require_space(store: RunStore, plan: Plan) -> None:
    """Raise OSError, before any time is spent on sampling, if the clips that are not stored yet will not fit on the disk."""
    needed = int(SPACE_MARGIN * run_bytes(plan, store.num_finished))
    free = shutil.disk_usage(store.folder).free
    if free < needed:
        advice = "Make room or use a shorter sound." if store.num_finished == 0 else "Make room, then queue again to go on."
        raise OSError(f"The frames need {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free in {store.folder}. {advice}")

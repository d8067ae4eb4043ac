"""The format of a run folder: names of its files, the manifest, and the tensors of a clip. Free of PyTorch, for the command line."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..constants import LATENT_CHANNELS, MOTION_LATENTS, SPATIAL_STRIDE, TEMPORAL_STRIDE, VIDEO_FPS
from ..untrusted import MOST_JSON_BYTES, NO_PLAIN_FILE, NotPlainError, cut, open_plain, read_json, read_plain, shown

RUNS_FOLDER = "wan_s2v_runs"  # in ComfyUI's output folder
FORMAT = "wan_s2v_run"
FORMAT_VERSION = 2
FIRST_VERSION = 1  # knows no frame rate: its runs have 16 frames per second
FRAME_RATE = "frame_rate"  # in a fingerprint
MANIFEST_NAME = "manifest.json"
LOCK_NAME = "run.lock"
LIVE_VIDEO_NAME = "in_progress.mp4"
CLIP_PATTERN = "clip_*.safetensors"
CLIP_NAME = re.compile(r"clip_\d{5,9}\.safetensors")
LEFTOVER = re.compile(
    r"(?:manifest\.json|in_progress\.mp4|clip_\d{5,9}\.safetensors)\.tmp|[0-9a-f]{1,32}\.reader|in_progress\.part\.mp4(?:\.lock)?"
)
HIGHEST_RATE = 240
LARGEST_NUMBER = 2**64  # a seed is below
FIRST_CLIP = "from_clip"  # in `made_with`
BLOCK_LATENTS = 3  # of live video
TAUGHT_BY = "clip"  # in `step_cache`

RUN_NAME = re.compile(r"[\w][\w .-]{0,99}")
IN_USE = "is in use by another process"

Value = str | int | float | bool | None
Fingerprint = dict[str, Value]
Spans = Sequence[tuple[int, str]]  # of a value for each clip: the clips at which another one begins, with it


class ClipTensor(NamedTuple):
    """A tensor of a clip file: type as safetensors names it, number of axes, and whether every clip has it."""

    dtype: str
    num_axes: int
    is_needed: bool = False


CLIP_TENSORS = {
    "latents": ClipTensor("F32", 4, is_needed=True),
    "frames": ClipTensor("U8", 4, is_needed=True),
    "motion_latents": ClipTensor("F32", 5),
    "history": ClipTensor("F32", 4),  # of early versions
    "step_inputs": ClipTensor("F32", 6),  # of live video
}
VALUE_BYTES = {"F32": 4, "U8": 1}


class ManifestError(Exception):
    """A manifest that cannot be used, with words that can follow its name."""


class NewerManifestError(ManifestError):
    """The manifest is of a newer version of the pack."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        version: of the format it was read in; None where it was not read.
        fingerprint: what decides the result, by value or by hash.
        hashes: SHA-256 of the file of each finished clip, "" for clips of early versions.
        made_with: versions of programs, each with `from_clip`, the first clip that was made with them.
        redone_from: the first clip of a redo that is not done yet.
        words: what the user calls an input whose value in the fingerprint is a hash.
        by_clip: hashes of what each clip is told, of inputs that change from clip to clip.
        in_progress: the first clip that the video in progress holds as listed, and the one behind the last; None when the run is done.
        step_cache: what clips that were sampled in full have taught, `sampling.step_cache.Table` each, oldest first.
    """

    version: int | None = FIRST_VERSION
    fingerprint: Fingerprint = field(default_factory=dict)
    hashes: tuple[str, ...] = ()
    made_with: tuple[dict[str, Any], ...] = ()
    redone_from: int | None = None
    in_progress: tuple[int, int] | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    by_clip: Mapping[str, Spans] = field(default_factory=dict)
    step_cache: tuple[dict[str, Any], ...] = ()

    @property
    def num_clips(self) -> int:
        """Finished clips."""
        return len(self.hashes)

    @property
    def frame_rate(self) -> int:
        """Frames per second of the video."""
        return int(self.fingerprint.get(FRAME_RATE) or VIDEO_FPS)

    def shown(self, num_kept: int) -> range:
        """The clips that the video in progress holds as listed, of those that are kept."""
        begin, end = self.in_progress or (0, 0)
        return range(begin, max(begin, min(end, num_kept)))

    def taught(self, num_kept: int, *, is_other: bool) -> list[dict[str, Any]]:
        """What the clips that are kept have taught; where the later ones get other inputs, it holds for no prompt of theirs."""
        kept = [entry for entry in self.step_cache if entry[TAUGHT_BY] < num_kept]
        return [{**entry, "prompt": None} for entry in kept] if is_other else kept

    def encode(self) -> bytes:
        """The text of the file."""
        content = {
            "format": FORMAT,
            "version": FIRST_VERSION if self.frame_rate == VIDEO_FPS else FORMAT_VERSION,  # older packs go on with what they know
            "fingerprint": self.fingerprint,
            "clips": [clip_name(index) for index in range(self.num_clips)],
            **({"sha256": self.hashes} if any(self.hashes) else {}),
            **({"made_with": self.made_with} if self.made_with else {}),
            **({} if self.redone_from is None else {"redone_from": self.redone_from}),
            **({} if self.in_progress is None else {"in_progress": self.in_progress}),
            **({"words": dict(self.words)} if self.words else {}),
            **({"by_clip": dict(self.by_clip)} if self.by_clip else {}),
            **({"step_cache": self.step_cache} if self.step_cache else {}),
        }
        return json.dumps(content, indent=1, allow_nan=False).encode()


def read_manifest(folder: Path) -> Manifest:
    """What a run folder says of itself.

    Raises:
        FileNotFoundError: there is no manifest. OSError: it cannot be read.
        ManifestError: it is damaged, or no manifest of a run, or (NewerManifestError) of a newer version.
    """
    try:
        content = read_json(read_plain(folder / MANIFEST_NAME, MOST_JSON_BYTES, through_links=False))
        version = content["version"]
        if content["format"] != FORMAT or type(version) is not int:
            raise KeyError(FORMAT)
        if version > FORMAT_VERSION:
            raise NewerManifestError(
                f"was made by a newer version of this node pack (run format {version}, this one reads up to {FORMAT_VERSION})"
            )
        num_clips = len(content["clips"])
        if content["clips"] != [clip_name(index) for index in range(num_clips)]:
            raise KeyError("clips")
        _require_kinds(content)
        return Manifest(
            version=version,
            fingerprint=dict(content["fingerprint"]),
            hashes=(*map(str, content.get("sha256", [])), *[""] * num_clips)[:num_clips],
            made_with=tuple(dict(entry) for entry in content.get("made_with", []) if entry[FIRST_CLIP] >= 0),
            redone_from=content.get("redone_from"),
            in_progress=None if content.get("in_progress") is None else _pair(*content["in_progress"]),
            words={str(name): str(text) for name, text in content.get("words", {}).items()},
            by_clip={str(name): [(int(clip), str(text)) for clip, text in spans] for name, spans in content.get("by_clip", {}).items()},
            step_cache=tuple(dict(entry) for entry in content.get("step_cache", []) if entry[TAUGHT_BY] >= 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError("is damaged or no run manifest") from error


def _require_kinds(content: Mapping[str, Any]) -> None:
    """Raise TypeError where a field holds something else than this pack writes there."""
    spans = content.get("by_clip", {}).values()
    tables = content.get("step_cache", [])
    counts = [content.get("redone_from"), *(content.get("in_progress") or ())]
    counts += [entry.get(FIRST_CLIP) for entry in content.get("made_with", [])]
    counts += [clip for span in spans for clip, _ in span] + [table[TAUGHT_BY] for table in tables]
    values = [*content["fingerprint"].values(), *(value for entry in content.get("made_with", []) for value in entry.values())]
    texts = [*content.get("words", {}).values(), *(text for span in spans for _, text in span)]
    rate = content["fingerprint"].get(FRAME_RATE)
    is_sound = (
        (rate is None or (type(rate) is int and 0 < rate <= HIGHEST_RATE))
        and all(count is None or (type(count) is int and 0 <= count < LARGEST_NUMBER) for count in counts)
        and all(
            value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < LARGEST_NUMBER) for value in values
        )
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(table.get("guessed", []), list) for table in tables)
    )
    if not is_sound:
        raise TypeError(FORMAT)


def _pair(first: int, end: int) -> tuple[int, int]:
    return first, end


def value_at(spans: Spans, clip: int) -> str | None:
    """The value that holds for a clip; None where there is none."""
    return next((value for first, value in reversed(spans) if first <= clip), None)


def clip_name(index: int) -> str:
    """Name of the file of a clip, which sorts as its number does."""
    return f"clip_{index:05d}.safetensors"


def clip_problem(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the tensors of a clip file, "" if nothing.

    Args:
        tensors: `dtype` and `shape` of each, as in the header of a safetensors file.
    """
    missing = [name for name, tensor in CLIP_TENSORS.items() if tensor.is_needed and name not in tensors]
    if missing:
        return f"no {', '.join(missing)}"
    for name, expected in CLIP_TENSORS.items():
        if name in tensors and (tensors[name]["dtype"], len(tensors[name]["shape"])) != (expected.dtype, expected.num_axes):
            return f"{name} are {tensors[name]['dtype']} {shown(list(tensors[name]['shape']))}"
    return _sizes_problem({name: list(tensor["shape"]) for name, tensor in tensors.items() if name in CLIP_TENSORS})


def _sizes_problem(shapes: Mapping[str, list[int]]) -> str:
    """What of a clip has another size than its latents say, "" if nothing."""
    height, width = shapes["latents"][2:]
    sizes = {
        "latents": [LATENT_CHANNELS, None, height, width],
        "frames": [None, height * SPATIAL_STRIDE, width * SPATIAL_STRIDE, 3],
        "motion_latents": [1, LATENT_CHANNELS, None, height, width],
    }
    for name, wanted in sizes.items():
        if any(size == 0 or size != (right or size) for size, right in zip(shapes.get(name, []), wanted, strict=False)):
            return f"{name} are {shown(shapes[name])}"
    return ""


def clip_file_problem(path: Path) -> str | None:
    """Why the file of a clip cannot be used, as far as its header tells; raises OSError where it cannot be opened now."""
    from safetensors import SafetensorError, safe_open  # the command line starts without it

    try:
        with open_plain(path, through_links=False), safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            problem = clip_problem({name: {"dtype": item.get_dtype(), "shape": item.get_shape()} for name, item in tensors.items()})
    except FileNotFoundError:
        return "is missing"
    except NotPlainError:
        return f"is damaged ({NO_PLAIN_FILE})"
    except SafetensorError as error:
        return f"is damaged ({cut(str(error))})"
    return f"is damaged ({problem})" if problem else None


def clip_shapes(
    num_frames: int, frames_per_clip: int, height: int, width: int, *, has_next: bool, later_steps: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that are stored of a clip.

    Args:
        num_frames: that the clip adds to the video. height, width: pixels. later_steps: of live video, behind the first one; else 0.
    """
    size = height // SPATIAL_STRIDE, width // SPATIAL_STRIDE
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (LATENT_CHANNELS, frames_per_clip // TEMPORAL_STRIDE, *size),
        "frames": (num_frames, height, width, 3),
    }
    if later_steps:
        blocks = frames_per_clip // (TEMPORAL_STRIDE * BLOCK_LATENTS)
        return {**shapes, "step_inputs": (blocks, later_steps, LATENT_CHANNELS, BLOCK_LATENTS, *size)}
    return {**shapes, "motion_latents": (1, LATENT_CHANNELS, MOTION_LATENTS, *size)} if has_next else shapes


def clip_bytes(num_frames: int, frames_per_clip: int, height: int, width: int, *, has_next: bool, later_steps: int = 0) -> int:
    """Bytes that a clip takes on the disk, without the header of its file (under 1 kB); arguments as of `clip_shapes`."""
    shapes = clip_shapes(num_frames, frames_per_clip, height, width, has_next=has_next, later_steps=later_steps)
    return sum(math.prod(shape) * VALUE_BYTES[CLIP_TENSORS[name].dtype] for name, shape in shapes.items())

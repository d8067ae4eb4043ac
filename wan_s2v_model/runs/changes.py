"""What differs between the inputs of a run and those it was begun with, in words, and from which clip on it matters."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .manifest import Fingerprint, Manifest, Spans, Value, value_at

SHOWN_CHARACTERS = 80  # of a changed value in a message
NEW_TAKE, STOP, REDO = IF_CHANGED = ("new take", "stop", "redo from the first clip that changes")
HASH = re.compile(r"\b[0-9a-f]{16,}\b")
SINCE_THE_SECOND_CLIP = {"seed_policy", "audio_history", "latent_anchor"}  # the first clip is the same either way
TEXTS = ("prompt", "schedule", "text", "value", "string")
FILES = ("image", "audio", "video", "file", "path", "run_name", "text")
MODELS = ("model_name", "unet_name", "ckpt_name")
NAMED_BY = {  # name in a fingerprint -> the way from the sampler against the links, and the inputs that hold its words
    "prompt": (("positive",), TEXTS),
    "negative_prompt": (("negative",), ("negative_prompt", *TEXTS[2:])),
    "model": (("model",), MODELS),
    "loras": (("model",), ("lora_name",)),
    "vae": (("vae",), ("vae_name", *MODELS[2:])),
    "audio": (("plan", "encoded_audio"), FILES),
    "picture": (("plan", "image"), FILES),
    "pose": (("plan", "pose"), FILES),
    "previous_frames": (("plan", "previous_frames"), FILES),
    "source_video": (("plan", "dub", "source_video"), FILES),
    "source_mask": (("plan", "dub", "source_mask"), FILES),
}


@dataclass(frozen=True)
class Notes:
    """What is compared or kept of a run beside its fingerprint.

    Attributes:
        assumed: values of names that the manifest of an older version of the pack does not have.
        earlier: gives by name what older versions wrote for the same inputs.
        versions: of the programs at work; kept and logged, but no reason to refuse, as the result differs in the last bits at most.
        words: what the user calls an input that the fingerprint holds by hash: the text of a prompt, the names of files.
        by_clip: hashes of what each clip is told, of inputs that change from clip to clip.
    """

    assumed: Mapping[str, Value] = field(default_factory=dict)
    earlier: Mapping[str, Callable[[], Sequence[Value]]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    by_clip: Mapping[str, Spans] = field(default_factory=dict)


class RunChangedError(ValueError):
    """The run was made with other inputs; `changes` maps each changed name to (old, new)."""

    def __init__(self, message: str, changes: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.changes = dict(changes)


class RedoError(ValueError):
    """The run has nothing to redo there, or lacks clips before it that can no longer be made as they were."""


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()
Words = Mapping[str, str]
Changes = Mapping[str, tuple[object, object]]


def changes_of(
    old: Fingerprint, new: Fingerprint, earlier: Mapping[str, Callable[[], Sequence[Value]]] = Notes().earlier
) -> dict[str, tuple[object, object]]:
    """Old and new value of every name whose value or kind differs, unless the old one is what earlier versions wrote for the new one."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in names}
    changes = {name: (a, b) for name, (a, b) in pairs.items() if a != b or isinstance(a, bool) != isinstance(b, bool)}
    return {name: change for name, change in changes.items() if name not in earlier or change[0] not in earlier[name]()}


def changes_since(manifest: Manifest, fingerprint: Fingerprint, notes: Notes) -> dict[str, tuple[object, object]]:
    """What differs from the inputs of the finished clips; nothing where there are none."""
    return changes_of({**notes.assumed, **manifest.fingerprint}, fingerprint, notes.earlier) if manifest.num_clips else {}


def first_changed_clip(changes: Changes, fixed: Collection[str], old: Mapping[str, Spans], new: Mapping[str, Spans]) -> int:
    """The first clip that differs, from 0: what has no clips of its own changes all of them.

    Args:
        fixed: names that all clips share. old, new: the hashes by clip.
    """
    return min((_first_changed(name, fixed, old.get(name, ()), new.get(name, ())) for name in changes), default=0)


def _first_changed(name: str, fixed: Collection[str], old: Spans, new: Spans) -> int:
    if name in SINCE_THE_SECOND_CLIP and name not in fixed:
        return 1
    borders = sorted({clip for clip, _ in (*old, *new)}) if old and new and name not in fixed else []
    return next((clip for clip in borders if value_at(old, clip) != value_at(new, clip)), 0)


def spans_of(values: Sequence[str]) -> Spans:
    """One value per clip -> each clip at which another one begins, with it."""
    return tuple((clip, value) for clip, value in enumerate(values) if clip == 0 or value != values[clip - 1])


def require_unchanged(run_name: str, changes: Changes, redo_from: int | None, fixed: Collection[str], words: Sequence[Words]) -> None:
    """Raise RunChangedError for inputs that must not change: all, or in a redo those that are fixed unless it is one of the whole run.

    Args:
        words: of the inputs before and now.
    """
    if redo_from is not None:
        changes = {} if redo_from == 0 else {name: change for name, change in changes.items() if name in fixed}
    if not changes:
        return
    lines = "\n".join(f"  {line}" for line in told(changes, *words))
    ways = "redo it from clip 1" if redo_from else "redo it from the first clip that should be made anew"
    raise RunChangedError(
        f"run '{run_name}' was made with other inputs:\n{lines}\n"
        f"Set these back to continue the run, or give another run name to keep both (if_changed: new take does so), or {ways}.",
        changes,
    )


def told(changes: Changes, old_words: Words, new_words: Words) -> Iterator[str]:
    """A line for each change, in words where a value is a hash."""
    for name, (old, new) in changes.items():
        if not any(HASH.search(str(value)) for value in (old, new)):
            yield f"{name}: {shown(old, new)}"
        elif old_words.get(name, "") == new_words.get(name, ""):
            same = new_words.get(name)
            yield f"{name}: {same!r}, with another content or other settings" if same else f"{name}: not the same as before"
        else:
            yield f"{name}: {shown(old_words.get(name, ABSENT), new_words.get(name, ABSENT))}"


def shown(old: object, new: object) -> str:
    """Write "old -> new", long texts cut to the part where they begin to differ."""
    texts = [repr(old), repr(new)]
    if max(map(len, texts)) > SHOWN_CHARACTERS:
        same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        texts = [_excerpt(text, max(0, same - SHOWN_CHARACTERS // 4)) for text in texts]
    return " -> ".join(texts)


def _excerpt(text: str, start: int) -> str:
    end = start + SHOWN_CHARACTERS
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def words_of_graph(prompt: Mapping[str, Any], sampler: str) -> dict[str, str]:
    """What a queued graph calls the inputs of a sampler that are kept by hash; a name is left out where the graph does not say it.

    Args:
        prompt: in API format. sampler: id of the node.
    """
    words = {name: ", ".join(dict.fromkeys(_texts_behind(prompt, [sampler, *way], holders))) for name, (way, holders) in NAMED_BY.items()}
    return {name: text for name, text in words.items() if text}


def _texts_behind(prompt: Mapping[str, Any], way: Sequence[str], holders: Collection[str]) -> Iterator[str]:
    """The texts under the names `holders` of the nearest nodes on every branch behind an input."""
    node_id, *names = way
    for name in names:
        link = prompt.get(node_id, {}).get("inputs", {}).get(name)
        if not _is_link(link):
            return
        node_id = str(link[0])
    waiting, seen = [node_id], {node_id}
    while waiting:
        inputs = prompt.get(waiting.pop(0), {}).get("inputs", {})
        texts = [inputs[name] for name in holders if isinstance(inputs.get(name), str) and inputs[name]]
        yield from texts[:1]
        if not texts or holders == NAMED_BY["loras"][1]:  # LoRAs follow each other
            links = [str(value[0]) for value in inputs.values() if _is_link(value) and str(value[0]) not in seen]
            seen.update(links)
            waiting += links


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


class RunStoreError(OSError):
    """The run folder cannot be used or written; `errno` is that of the cause where there is one."""


@contextlib.contextmanager
def reported(what: str, advice: str = "") -> Iterator[None]:
    """Turn errors of the file system into a RunStoreError that says what was being done."""
    from safetensors import SafetensorError  # the command line starts without it

    try:
        yield
    except RunStoreError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        told = RunStoreError(f"{what}: {reason}. {advice}".rstrip())
        told.errno = getattr(error, "errno", None)
        raise told from error

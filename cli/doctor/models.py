"""What the doctor says of the model files that it found, and of those that it did not find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..command import command
from ..models.files import FILES, PARTS, PRECISIONS, by_name, select
from ..models.headers import DOWNLOAD, GGUF, INDEX_SUFFIX
from .finding import GB, OK, PROBLEM, WARNING, Finding

GGUF_ADVICE = "Load it with a GGUF loader and connect its MODEL to Sample Video (Wan S2V)"


@dataclass(frozen=True)
class ModelFound:
    """A file that has the name of one of ours.

    Attributes:
        kind: its type, in words.
        problem: why it cannot be used.
        advice: what to do about it; DOWNLOAD in it stands for a command.
        mendable: after that the part is there.
    """

    name: str
    size_bytes: int
    kind: str = ""
    problem: str = ""
    advice: str = ""
    mendable: bool = False


def model_findings(models: Mapping[str, Sequence[ModelFound]]) -> Iterator[Finding]:
    """What there is of each part, then what is missing."""
    missing = []
    for name, part in PARTS.items():
        found = models.get(name, ())
        good = [model for model in found if not model.problem]
        if good:
            yield _usable(name, good)
        elif part.needed and not any(model.mendable for model in found):
            missing.append(name)
        for model in found:
            if model.problem:
                status = PROBLEM if model.mendable and not good else WARNING
                advice = model.advice.replace(DOWNLOAD, _command(name, model.name))
                yield Finding(status, part.title, f"{model.name} cannot be used: {model.problem}", advice)
    if missing:
        yield _missing(tuple(missing))


def _usable(part: str, models: Sequence[ModelFound]) -> Finding:
    text = "; ".join(f"{model.name} ({model.kind}, {_size(model.size_bytes)})" for model in models)
    if any(model.kind != GGUF for model in models):
        return Finding(OK, PARTS[part].title, text)
    return Finding(
        WARNING,
        PARTS[part].title,
        f"{text}, which Load Wan S2V Model does not read",
        f"{GGUF_ADVICE}, or: {command('download')} --only {part}",
    )


def _command(part: str, name: str) -> str:
    """The download that puts the published file in the place of this one."""
    file = by_name(name)
    if name.endswith(INDEX_SUFFIX) or file in FILES["official"]:
        return f"{command('download')} --set official --only {part}" + ("" if file else "   (into the folder Wan2.2-S2V-14B)")
    if file is None:
        return f"{command('download')} --only {part}   (with --precision bf16, if that was no fp8 file)"
    return f"{command('download')} --only {part}" + (" --precision bf16" if file.precisions == ("bf16",) else "")


def _missing(parts: tuple[str, ...]) -> Finding:
    places = ", ".join(f"{PARTS[name].title} (models/{PARTS[name].folder})" for name in parts)
    small, exact = (sum(file.gigabytes for file in select("comfy", precision, parts)) for precision in PRECISIONS)
    return Finding(
        PROBLEM, "Missing", places, f"{command('download')} --only {','.join(parts)}   ({small:.1f} GB; --precision bf16: {exact:.1f} GB)"
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GB:.2f} GB" if size_bytes >= GB / 10 else f"{size_bytes / 1e6:.1f} MB"

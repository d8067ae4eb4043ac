"""What the files of a golden folder are. A file that nobody knows is an error."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from . import cases_audio, cases_e2e, cases_forward, cases_live, cases_preprocess, cases_solver, cases_vae
from .case import Case, Row, failure, read_metadata

LIVE = "live"
KINDS: dict[str, Callable[[Case], Iterator[Row]] | None] = {
    "preprocess": None,
    "solver": cases_solver.replay,
    "forward": cases_forward.replay,
    "audio": cases_audio.replay,
    "vae": cases_vae.replay,
    "e2e": cases_e2e.replay,
    LIVE: cases_live.replay,
}
TABLES: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "audio/frame_count_table.json": cases_audio.replay_frame_counts,
    "forward/index.json": cases_forward.replay_index,
    "forward/sensitivity.json": cases_forward.replay_sensitivity,
    "preprocess/tables.json": cases_preprocess.replay_tables,
}
LIVE_TABLES: dict[str, Callable[[Path, Path], Iterator[Row]]] = {  # in the folder of the kind, or in that of all kinds
    "schedule.json": cases_live.replay_schedule,
    "sensitivity.json": cases_live.replay_sensitivity,
    "audio_rows_25fps.json": cases_live.replay_audio_rows,
}
REFERENCES = ("model_file", "vae_file", "wav2vec_dir")
DOCUMENTS = (".md", ".txt")
WEIGHT_KEYS = {"trainable_cond_mask.weight", "decoder.middle.0.residual.0.gamma"}  # of a transformer and of a VAE
ERRORS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


@dataclass(frozen=True)
class Job:
    """One file to replay, or to complain about."""

    kind: str
    name: str
    replay: Callable[[], Iterator[Row]]

    def rows(self) -> Iterator[Row]:
        """The rows of the file; whatever goes wrong is a row too."""
        try:
            yield from self.replay()
        except ERRORS as error:
            yield failure(self.name, "-", f"{type(error).__name__}: {error}")


def find_jobs(root: Path, only: str | None = None, live_models: Path | None = None) -> list[Job]:
    """Every file of the folder that is not a model, a document or hidden, in the order of KINDS."""
    files = [path for path in _walk(root) if not _is_hidden(path.relative_to(root))]
    models = _models(root, files)
    jobs = [
        _live_job(root, path, live_models) or _job(root, path)
        for path in files
        if not any(path == model or model in path.parents for model in models)
    ]
    order = [*KINDS]
    return sorted(
        (job for job in jobs if job is not None and only in (None, job.kind)),
        key=lambda job: order.index(job.kind) if job.kind in order else len(order),
    )


def _live_job(root: Path, path: Path, models: Path | None) -> Job | None:
    """A live case or table, in the folder of the kind or in that of all kinds; None for other files."""
    folders = path.relative_to(root).parts[:-1]
    if folders not in ((), (LIVE,)):
        return None
    if path.name in LIVE_TABLES:
        return Job(LIVE, path.relative_to(root).as_posix(), lambda: LIVE_TABLES[path.name](root, path))
    if path.suffix == ".safetensors" and (folders or cases_live.is_case(_metadata(path))):
        return Job(LIVE, path.relative_to(root).with_suffix("").as_posix(), lambda: cases_live.replay(Case(root, path, models)))
    return None


def _job(root: Path, path: Path) -> Job | None:
    relative = path.relative_to(root)
    name, kind = relative.as_posix(), relative.parts[0]
    if path.suffix in DOCUMENTS:
        return None
    if name in TABLES:
        return Job(kind, name, lambda: TABLES[name](root, path))
    if len(relative.parts) > 1 and path.suffix == ".safetensors" and KINDS.get(kind) is not None:
        return Job(kind, name.removesuffix(".safetensors"), lambda: KINDS[kind](Case(root, path)))
    if len(relative.parts) == 1 and _is_model(path):
        return None
    return Job(kind, name, lambda: iter([failure(name, "-", "unknown file: neither a case, nor a table, nor a model")]))


def _models(root: Path, files: list[Path]) -> set[Path]:
    """Files and folders that hold models: those that a case names, and all wav2vec2 folders."""
    models = set(cases_audio.find_wav2vec_folders(root))
    for path in files:
        if path.suffix == ".safetensors":
            models |= {root / value for key, value in _metadata(path).items() if key in REFERENCES and value}
    return models | {model.with_name(f"{model.stem}.config.json") for model in models}


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except SafetensorError:
        return {}  # reported when it is replayed


def _walk(root: Path) -> Iterator[Path]:
    """All files, also behind links to folders."""
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _is_model(path: Path) -> bool:
    """Whether a file beside the kinds is a model or the configuration of one."""
    if path.name.endswith(".config.json"):
        return path.with_name(path.name.removesuffix(".config.json") + ".safetensors").is_file()
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            return bool(WEIGHT_KEYS & set(file.keys()))
    except SafetensorError:
        return False


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

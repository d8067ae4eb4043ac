"""Runs in words and in JSON."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..command import command
from .folder import Clip, Run
from .removal import Removal
from .verify import Verification, advice_for

try:
    from ...wan_s2v_model.constants import VIDEO_FPS
    from ...wan_s2v_model.time_text import duration, short_duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.constants import VIDEO_FPS
    from wan_s2v_model.time_text import duration, short_duration

WIDTH = 120
INDENT = 14
SECOND_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
FILE = re.compile(r"(?P<name>\S.*?) (?P<size>\d+) (?P<changed_ns>\d{16,})(?P<rest>.*)", re.DOTALL)
CONTENT = re.compile(r"content (?P<size>\d+) (?P<digest>[0-9a-f]{16})(?P<rest>.*)", re.DOTALL)
OPTION = re.compile(r"'(\w+)': '([^']*)'")
NO_LORAS = hashlib.sha256().hexdigest()[:16]
INPUTS = {
    "audio": "sound",
    "picture": "picture",
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "pose": "pose video",
    "previous_frames": "earlier frames",
    "sigmas": "sigmas",
}
SHOWN_ELSEWHERE = {
    *INPUTS,
    "model",
    "loras",
    "model_nodes",
    "vae",
    "width",
    "height",
    "frames_per_clip",
    "frame_rate",
    "clips",
    "sync_mode",
    "solver",
    "seed",
    "steps",
    "cfg",
}


# --- figures


def size_text(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}" if num_bytes < 1000 * factor else f"{num_bytes / factor:,.0f} {unit}"
    return f"{num_bytes} B"


def position_text(frame: int, fps: int) -> str:
    """Where in the video a frame is: 1:04.812."""
    return duration(frame * 1000 // fps / 1000, decimals=3)


def age_text(changed: float, now: float) -> str:
    age = now - changed
    if age > 30 * 86_400 or age < -60:
        return datetime.fromtimestamp(changed).strftime("%Y-%m-%d")
    for seconds, unit in SECOND_UNITS:
        if age >= seconds:
            count = int(age // seconds)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def clips_text(run: Run) -> str:
    return f"{run.num_finished}/{run.num_clips}" if run.num_clips else str(run.num_finished)


def picture_text(run: Run) -> str:
    return "{}x{}".format(*run.size_px) if run.size_px else "-"


def state_text(run: Run) -> str:
    """The state in a few words."""
    words = []
    if run.in_use:
        words.append("in use")
    elif run.in_use is None:
        words.append("in use or not: the disk has no locks")
    if run.problem:
        words.append("not a run" if run.is_foreign else run.problem)
    elif run.num_finished < len(run.clips):
        words.append(f"damaged from clip {run.num_finished + 1} on")
    elif run.is_finished:
        words.append("finished")
    elif not run.in_use:
        words.append("can be continued")
    if run.leftovers and not run.in_use:
        words.append(f"{_count(len(run.leftovers), 'leftover')} of a crash")
    return ", ".join(words)


# --- list


def list_text(runs: Sequence[Run], place: str, free_bytes: int | None, now: float) -> str:
    """One line per run under a head, and the sum."""
    free = f"; {size_text(free_bytes)} free on this disk" if free_bytes is not None else ""
    if not runs:
        return f"no runs in {place}{free}"
    rows = [("name", "clips", "video", "picture", "size", "changed", "format", "state")]
    rows += [
        (
            run.name,
            clips_text(run),
            short_duration(run.num_frames / run.fps),
            picture_text(run),
            size_text(run.size_bytes),
            age_text(run.changed, now),
            str(run.manifest.version or "-"),
            state_text(run),
        )
        for run in runs
    ]
    total = f"{_count(len(runs), 'run')}, {size_text(sum(run.size_bytes for run in runs))}, in {place}{free}"
    return "\n".join([*_columns(rows, right={1, 2, 4}), "", total])


def run_facts(run: Run) -> dict[str, Any]:
    """What `list --json` says of a run."""
    width, height = run.size_px or (None, None)
    return {
        "name": run.name,
        "folder": str(run.folder),
        "size_bytes": run.size_bytes,
        "clips_finished": run.num_finished,
        "clips": run.num_clips,
        "frames_finished": run.num_frames,
        "frame_rate": run.fps,
        "seconds": run.num_frames / run.fps,
        "width": width,
        "height": height,
        "changed": _iso(run.changed),
        "in_use": run.in_use,
        "format_version": run.manifest.version,
        "finished": run.is_finished,
        "leftovers": [path.name for path in run.leftovers],
        "strange": list(run.strange),
        "problem": run.problem,
    }


# --- show


def show_text(run: Run, now: float) -> str:
    """Settings in words, what comes next, and a line per clip."""
    entries = {"folder": str(run.folder), "state": f"{state_text(run)}; changed {age_text(run.changed, now)}; {size_text(run.size_bytes)}"}
    if not run.problem:
        made_with = "; ".join(map(_versions_text, run.manifest.made_with))
        entries |= {
            "video": _video_text(run),
            **_settings_entries(run.settings, run.manifest.words),
            **({"made with": made_with} if made_with else {}),
        }
        entries |= {"step cache": _cache_text(run.manifest.step_cache)} if run.manifest.step_cache else {}
        entries["format"] = f"version {run.manifest.version}"
    if run.strange:
        entries["strange"] = f"{', '.join(run.strange)}: no run has such files; nothing here touches them"
    entries["next"] = next_text(run)
    lines = [f"run '{run.name}'", *(line for name, text in entries.items() for line in _entry(name, text))]
    return "\n".join([*lines, "", *_clip_table(run)] if run.clips else lines)


def next_text(run: Run) -> str:
    """What happens if the same prompt is queued again."""
    if run.problem:
        return advice_for(run)
    if run.in_use:
        return "Another process works on it. A second one is refused until it ends."
    if run.is_finished:
        return "All clips are finished: the same prompt again samples nothing, unless redo_from_clip is set."
    seed = run.settings.get("seed")
    step = 0 if run.settings.get("seed_policy") == "same seed" else run.num_finished
    noise = f" with the noise of seed {(seed + step) % 2**64}" if isinstance(seed, int) else ""
    kept = "" if run.num_finished == 0 else "Clip 1 is kept. " if run.num_finished == 1 else f"Clips 1 to {run.num_finished} are kept. "
    return f"{kept}The same prompt again samples clip {run.num_finished + 1}{noise}."


def show_facts(run: Run) -> dict[str, Any]:
    """What `show --json` says."""
    return {
        **run_facts(run),
        "settings": run.settings,
        "made_with": list(run.manifest.made_with),
        "step_cache": list(run.manifest.step_cache),
        "clip_table": [_clip_facts(clip) for clip in run.clips],
        "next": next_text(run),
    }


def _video_text(run: Run) -> str:
    settings = run.settings
    planned = settings.get("frames_per_clip")
    clips = f"{clips_text(run)} clips" + (f" of {planned} frames ({planned / run.fps:g} s)" if isinstance(planned, int) else "")
    sync = f", sync {settings['sync_mode']}" if "sync_mode" in settings else ""
    rate = "" if run.fps == VIDEO_FPS else f", {run.fps} fps"
    return f"{picture_text(run)}{rate}, {clips}, {short_duration(run.num_frames / run.fps)} finished{sync}"


def _settings_entries(settings: dict[str, Any], words: Mapping[str, str]) -> dict[str, str]:
    sampling = [f"{settings['steps']} steps"] if "steps" in settings else []
    sampling += [f"{name} {settings[name]}" for name in ("solver", "cfg", "seed") if name in settings]
    sampling += [f"{name} {value}" for name, value in settings.items() if name not in SHOWN_ELSEWHERE and value not in ("", None)]
    used = [f"{title} {words.get(name, settings[name])!r}" for name, title in INPUTS.items() if settings.get(name)]
    entries = {
        "model": ", ".join(filter(None, (words.get("model"), _model_text(str(settings.get("model", "")))))),
        "LoRAs": "none" if settings.get("loras") == NO_LORAS else words.get("loras", str(settings.get("loras", ""))),
        "nodes": str(settings.get("model_nodes") or ""),
        "VAE": str(settings.get("vae", "")),
        "sampling": ", ".join(sampling),
        "inputs": ", ".join(used),
    }
    return {name: text for name, text in entries.items() if text}


def _versions_text(versions: dict[str, Any]) -> str:
    first = versions.get("from_clip")
    text = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "from_clip")
    return f"{text}, from clip {first + 1} on" if first else text


def _cache_text(tables: Sequence[dict[str, Any]]) -> str:
    """How many steps are guessed behind each clip that was sampled in full, and the errors that were measured there."""
    learnt = [f"{len(table['guessed'])} of {table['steps']} steps guessed behind clip {table['clip'] + 1}" for table in tables]
    errors = ["" if table["error"] is None else f", after an error of {table['error']:.1%} there" for table in tables]
    return "; ".join(map("".join, zip(learnt, errors, strict=True)))


def _model_text(identity: str) -> str:
    """The manifest has bytes and hash of a file, or of early versions its name, bytes and nanoseconds of change, then its options."""
    if found := CONTENT.fullmatch(identity):
        return f"{size_text(int(found['size']))}, content {found['digest']}, {_options_text(found['rest'])}"
    if found := FILE.fullmatch(identity):
        day = datetime.fromtimestamp(int(found["changed_ns"]) / 1e9).strftime("%Y-%m-%d")
        return f"{found['name']} ({size_text(int(found['size']))}, of {day}), {_options_text(found['rest'])}"
    return identity


def _options_text(rest: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in OPTION.findall(rest)) or rest.strip()


def _clip_table(run: Run) -> list[str]:
    rows = [("clip", "starts at", "frames", "size", "written", "")]
    start = 0
    for clip in run.clips:
        written = datetime.fromtimestamp(clip.changed).strftime("%Y-%m-%d %H:%M:%S") if clip.changed else "-"
        position = position_text(start, run.fps) if clip.index <= run.num_finished else "-"
        rows.append((str(clip.index + 1), position, str(clip.num_frames or "-"), size_text(clip.size_bytes), written, clip.problem))
        start += clip.num_frames
    return _columns(rows, right={0, 1, 2, 3})


def _clip_facts(clip: Clip) -> dict[str, Any]:
    return {
        "clip": clip.index + 1,
        "file": clip.path.name,
        "frames": clip.num_frames,
        "size_bytes": clip.size_bytes,
        "written": _iso(clip.changed) if clip.changed else None,
        "sha256": clip.sha256 or None,
        "problem": clip.problem,
    }


# --- verify


def verify_text(found: Verification) -> str:
    """One line per problem, then what to do."""
    run = found.run
    lines = [f"clip {clip.index + 1}: {clip.path.name} {problem}" for clip, problem in found.problems]
    lines += [f"leftover: {path.name}: a write that a crash cut off; remove it with: {command('runs clean')}" for path in _old(run)]
    lines += [f"strange: {name}: no run has such a file" for name in run.strange]
    if found.redo_from is None:
        return "\n".join([*lines, f"run '{run.name}': {_intact_text(found)}"])
    kept = f"clips 1 to {found.redo_from} are kept" if found.redo_from > 1 else "clip 1 is kept" if found.redo_from else "nothing is kept"
    advice = (
        f"run '{run.name}' is damaged from clip {found.redo_from + 1} on. Set redo_from_clip to {found.redo_from + 1} in Sample Video "
        f"(Wan S2V) and queue the same prompt again: {kept}. Or put the file back from a copy."
    )
    return "\n".join([*lines, "", *textwrap.wrap(advice, WIDTH)])


def verify_facts(found: Verification) -> dict[str, Any]:
    """What `verify --json` says."""
    return {
        "name": found.run.name,
        "in_use": found.run.in_use,
        "clips": len(found.run.clips),
        "clips_hashed": found.num_hashed,
        "problems": [{"clip": clip.index + 1, "file": clip.path.name, "problem": problem} for clip, problem in found.problems],
        "redo_from_clip": None if found.redo_from is None else found.redo_from + 1,
        "leftovers": [path.name for path in _old(found.run)],
        "strange": list(found.run.strange),
    }


def _intact_text(found: Verification) -> str:
    total = len(found.run.clips)
    clips = _count(total, "clip") + (" so far, for it is in use" if found.run.in_use else "")
    if found.num_hashed == total:
        return f"{clips}; all are as they were written"
    return (
        f"{clips}; their files are complete, but the manifest has {_count(found.num_hashed, 'hash') if found.num_hashed else 'no hashes'}"
    )


def _old(run: Run) -> Sequence[Any]:
    return () if run.in_use else run.leftovers


# --- delete, clean


def removal_text(removals: Sequence[Removal]) -> str:
    """One line per run."""
    return "\n".join(_removal_line(removal) for removal in removals) or "nothing to remove"


def removal_facts(removal: Removal) -> dict[str, Any]:
    """What `delete --json` and `clean --json` say of a run."""
    return {
        "name": removal.run.name,
        "whole_run": removal.whole,
        "files": [path.name for path in removal.paths],
        "size_bytes": removal.size_bytes,
        "keeps": list(removal.keeps),
        "blocked": removal.blocked,
    }


def _removal_line(removal: Removal) -> str:
    run = removal.run
    if removal.blocked:
        return f"run '{run.name}' {removal.blocked}: it stays"
    if not removal.whole:
        return f"run '{run.name}': {_count(len(removal.paths), 'leftover')}: {', '.join(path.name for path in removal.paths)}"
    keeps = f"; its folder stays, with {', '.join(removal.keeps)}" if removal.keeps else ""
    return f"run '{run.name}': {clips_text(run)} clips, {short_duration(run.num_frames / run.fps)}, {size_text(removal.size_bytes)}{keeps}"


# --- layout


def _columns(rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_padded(row, widths, right)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int], right: set[int]) -> list[str]:
    pairs = enumerate(zip(row, widths, strict=True))
    return [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in pairs]


def _entry(name: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"  {name:<{INDENT - 2}}{lines[0]}", *(" " * INDENT + line for line in lines[1:])]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")

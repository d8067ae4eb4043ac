"""Jobs as JSON lines: the options of `predict`, read and checked before anything is queued."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

from ..predict.object_info import PromptError
from ..predict.options import FILE_FLAGS, PICTURE, SETTINGS, SOUND, STANDARD_OUTPUT, add_options, request_from
from .broker import HIGHEST_PRIORITY, USUAL_PRIORITY
from .files import FileError, is_url, require_file, require_scheme

try:
    from ...wan_s2v_model.media.file_names import windows_problem
    from ...wan_s2v_model.runs.manifest import RUN_NAME
    from ...wan_s2v_model.untrusted import read_json, shown
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.media.file_names import windows_problem
    from wan_s2v_model.runs.manifest import RUN_NAME
    from wan_s2v_model.untrusted import read_json, shown

INPUTS = ("image", "audio", "pose", "video", "video-mask")
STAND_INS = {**dict.fromkeys((*INPUTS, "mask"), PICTURE), "audio": SOUND, "sound": SOUND}  # of inputs that lie elsewhere
SPEAKER = "speaker"
OF_A_SPEAKER = ("sound", "mask", "box")
INSTEAD = {"image": "video", "audio": SPEAKER, "output": "output"}  # what is needed -> what does as well
SWITCHES = ("fast", "live", "no-offload")
LISTS = ("set", "lora")
OPTIONS = {*INPUTS, SPEAKER, "output", "size", "gpus", *SWITCHES, *LISTS, *FILE_FLAGS, *(setting.flag for setting in SETTINGS)}
OF_THE_FLEET = {"priority", "deadline", "retries"}
USUAL_RETRIES = 2
NAME_CHARACTERS = 16  # of a job that is given none
Line = dict[str, Any]


class JobError(ValueError):
    """A line is not a job, with what is wrong."""


@dataclass(frozen=True)
class Job:
    """One video.

    Attributes:
        name: of the run and of the task. line: the options of `predict` by name, with whole paths.
        priority: 0 to 9, of which 9 goes first. expires: not begun after this time. retries: after the first failure.
    """

    name: str
    line: Line
    priority: int = USUAL_PRIORITY
    expires: datetime | None = None
    retries: int = USUAL_RETRIES

    @classmethod
    def of(cls, line: Mapping[str, Any], now: datetime | None = None) -> Job:
        """Read a line.

        Raises:
            JobError: it is no job.
        """
        given = {str(name).replace("_", "-"): value for name, value in line.items() if value is not None}
        unknown = sorted(set(given) - OPTIONS - OF_THE_FLEET)
        if unknown:
            raise JobError(f"there is no option {', '.join(unknown)}; there are {', '.join(sorted(OPTIONS | OF_THE_FLEET))}")
        missing = [name for name, other in INSTEAD.items() if not (given.get(name) or given.get(other))]
        if missing:
            raise JobError(f"{', '.join(missing)} is missing")
        priority, retries = _number(given, "priority", USUAL_PRIORITY, HIGHEST_PRIORITY), _number(given, "retries", USUAL_RETRIES, 99)
        expires = _time(given.pop("deadline", None), now or datetime.now(timezone.utc))
        options = {name: _whole(name, value) for name, value in given.items() if name not in OF_THE_FLEET}
        name = str(options.setdefault("run-name", _name_of(options)))
        if not RUN_NAME.fullmatch(name) or windows_problem(name):
            raise JobError(f"run-name {name!r} is no name for a run: letters, digits, dots, dashes and underscores, at most 100")
        parse(options)
        return cls(name, {**options, "retries": retries}, priority, expires, retries)

    def require_files(self) -> None:
        """Raise JobError unless its inputs are there and its output can be written to a place of a known kind."""
        try:
            for place in inputs_of(self.line).values():
                require_file(place)
            require_scheme(self.line["output"])
        except FileError as error:
            raise JobError(str(error)) from error


def read_jobs(lines: Iterable[str]) -> list[Job]:
    """Read and check all lines; empty ones are left out.

    Raises:
        JobError: with every line that is wrong.
    """
    jobs: dict[str, Job] = {}
    problems = []
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                job = _read(text)
                if job.name in jobs and jobs[job.name] != job:
                    raise JobError(f"run-name {job.name} is that of another line")
                jobs[job.name] = job
            except JobError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        raise JobError("\n".join(problems))
    return list(jobs.values())


def inputs_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The paths and URLs of all inputs by name: `image`, `speaker 1 sound` and so on."""
    places = {name: line[name] for name in INPUTS if name in line}
    for number, speaker in enumerate(line.get(SPEAKER, ()), start=1):
        places |= {f"{SPEAKER} {number} {part}": speaker[part] for part in OF_A_SPEAKER[:2] if part in speaker}
    return places


def parse(line: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> argparse.Namespace:
    """The options of `predict` that a line stands for.

    Args:
        files: the inputs on this machine, by name; without them stand-ins, to check the rest.
    """
    files = files or {name: STAND_INS[name.split()[-1]] for name in inputs_of(line)}
    parser = _Parser(prog="job", add_help=False, allow_abbrev=False)
    add_options(parser)
    here = {**line, **{name: str(files[name]) for name in INPUTS if name in line}, "output": Path(str(line["output"])).name}
    here.pop("retries", None)
    if SPEAKER in here:
        here[SPEAKER] = [_speaker(number, speaker, files) for number, speaker in enumerate(here[SPEAKER], start=1)]
    options = parser.parse_args([argument for name, value in here.items() for argument in _arguments(name, value)])
    if options.output == STANDARD_OUTPUT:
        raise JobError("output must be the name of a file, got -")
    try:
        request_from(options)
    except PromptError as error:
        raise JobError(str(error).removeprefix("--")) from error
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise JobError(message.replace("argument --", ""))


def _read(text: str) -> Job:
    try:
        line = read_json(text)
    except ValueError as error:
        raise JobError(f"is no JSON ({error})") from error
    if not isinstance(line, dict):
        raise JobError('must be a JSON object, such as {"image": "me.png", "audio": "me.wav", "output": "talk.mp4"}')
    job = Job.of(line)
    job.require_files()
    return job


def _arguments(name: str, value: Any) -> list[str]:
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise JobError(f"{name} must be true or false, got {shown(value)}")
        return [f"--{name}"] if value else []
    if name in (*LISTS, SPEAKER) and isinstance(value, list):
        return [f"--{name}={item}" for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise JobError(f"{name} must be a text or a number, got {shown(value)}")
    return [f"--{name}={value}"]


def _whole(name: str, value: Any) -> Any:
    """A path as every machine with the same folders knows it; URLs as they are."""
    if name == SPEAKER:
        return [_whole_speaker(speaker) for speaker in (value if isinstance(value, list) else [value])]
    is_path = name in (*INPUTS, "output") and isinstance(value, str) and not is_url(value)
    return os.path.abspath(value) if is_path else value


def _whole_speaker(speaker: Any) -> dict[str, str]:
    """Raise JobError unless it is an object with the parts of a speaker."""
    is_right = isinstance(speaker, dict) and speaker.keys() <= set(OF_A_SPEAKER) and ("mask" in speaker) != ("box" in speaker)
    if not is_right or not all(isinstance(part, str) for part in speaker.values()):
        raise JobError(
            f'{SPEAKER} must be a list of objects such as {{"sound": "a.wav", "box": "0,0,50%,100%"}}, or with a mask; got {speaker!r}'
        )
    return {part: value if part == "box" or is_url(value) else os.path.abspath(value) for part, value in speaker.items()}


def _speaker(number: int, speaker: Mapping[str, str], files: Mapping[str, Path]) -> str:
    """As `predict --speaker` takes it."""
    sound, mask = (files.get(f"{SPEAKER} {number} {part}") for part in OF_A_SPEAKER[:2])
    return f"{sound or ''}:{mask or speaker['box']}"


def _number(given: Mapping[str, Any], name: str, default: int, largest: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise JobError(f"{name} must be a whole number from 0 to {largest}, got {shown(value)}")
    return value


def _time(value: Any, now: datetime) -> datetime | None:
    """A deadline: seconds from now, or a time as ISO 8601."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return now + timedelta(seconds=value)
    try:
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise JobError(f"deadline must be seconds from now or a time such as 2026-12-01T18:00:00+00:00, got {shown(value)}") from None
    return time if time.tzinfo else time.astimezone()


def _name_of(options: Mapping[str, Any]) -> str:
    """The same for the same options."""
    return f"job-{hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:NAME_CHARACTERS]}"

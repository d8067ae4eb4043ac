"""One video on the ComfyUI of this worker: what a lost worker left there is taken over or interrupted."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..comfyui.client import ComfyClient, OutputFile, PromptFailed
from ..comfyui.following import Progress, Stage, Text
from ..predict.graph import SAMPLERS, Prompt, build_prompt
from ..predict.job import find_video
from ..predict.options import request_from
from ..predict.sound import readable
from .files import fetch
from .job_lines import Job, inputs_of, parse

try:
    from ...wan_s2v_model.runs.manifest import IN_USE
    from ...wan_s2v_model.sampling.progress import read_line
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.runs.manifest import IN_USE
    from wan_s2v_model.sampling.progress import read_line

NAMESPACE = uuid.UUID("6e1c3b52-0f2f-4b47-9f0e-5d6f5a1b7c11")  # of our prompts
PLACE = re.compile(r"clip (\d+) of (\d+)(?:, step (\d+)/(\d+))?")
REPORT_EVERY_S = 2.0
LEFTOVER_S = 120.0  # for a prompt to end that was interrupted: within one step
POLL_S = 0.2


class RunInUse(Exception):
    """Another ComfyUI works on this run."""


class Reporter:
    """Tells now and then how far the video is.

    Args:
        report: is given clip, clips, step, steps and left_s as far as they are known.
        on_clip: is called with the number of a clip, from 1, when the work on it is first heard of.
    """

    def __init__(self, prompt: Prompt, report: Callable[[dict[str, Any]], None], on_clip: Callable[[int], None]) -> None:
        self._samplers = {key for key, node in prompt.items() if node["class_type"] in SAMPLERS}
        self._report, self._on_clip = report, on_clip
        self._clip = 0
        self._told_s = float("-inf")

    def on_text(self, text: Text) -> None:
        """A node shows a text; that of the sampler says where it is."""
        line = read_line(text.text)
        place = PLACE.search(line.place) if line and text.node in self._samplers else None
        if line is None or place is None:
            return
        numbers = (int(number) if number else None for number in place.groups())
        self._tell({**dict(zip(("clip", "clips", "step", "steps"), numbers, strict=True)), "left_s": line.left_s})

    def _tell(self, progress: dict[str, Any]) -> None:
        is_new, now_s = progress["clip"] != self._clip, time.monotonic()
        if is_new:
            self._clip = progress["clip"]
            self._on_clip(self._clip)
        if is_new or now_s - self._told_s >= REPORT_EVERY_S:
            self._told_s = now_s
            self._report(progress)


def prompt_id_of(job: Job) -> str:
    """The same for the same job on every machine, so that a prompt that a lost worker left is known again."""
    return str(uuid.uuid5(NAMESPACE, f"{job.name} {json.dumps(job.line, sort_keys=True)}"))


def render(
    client: ComfyClient, job: Job, folder: Path, report: Callable[[dict[str, Any]], None], on_clip: Callable[[int], None]
) -> OutputFile:
    """Fetch the inputs and make the video; finished clips of the run are kept and not made again.

    Args:
        folder: for the inputs.
    Raises:
        RunInUse: another ComfyUI works on the run.
        ComfyError, PromptError, OSError: with what is wrong.
    """
    files = {name: fetch(place, folder) for name, place in inputs_of(job.line).items()}
    request = request_from(parse(job.line, files))

    def upload(path: Path) -> str:
        return client.upload(readable(path, folder, lambda _: None) if path in request.sounds else path)

    prompt, prompt_id = build_prompt(request, client.object_info(), upload), prompt_id_of(job)
    client.client_id = prompt_id  # so that the texts of a prompt that is taken over come here
    clear_server(client, prompt_id)
    reporter = Reporter(prompt, report, on_clip)
    try:
        outputs = client.run(prompt, _unheard, on_stage=_unheard, on_text=reporter.on_text, prompt_id=prompt_id, may_be_there=True)
    except PromptFailed as error:
        if IN_USE in str(error):
            raise RunInUse(str(error)) from error
        raise
    return find_video(outputs, prompt)


def clear_server(client: ComfyClient, prompt_id: str) -> None:
    """Interrupt what is left of other jobs, and forget how an earlier try of this one failed."""
    record = client.history(prompt_id)
    if record and record["status"]["status_str"] != "success":
        client.forget(prompt_id)
    end_s = time.monotonic() + LEFTOVER_S
    while others := _others(client, prompt_id):
        for other in others:
            client.interrupt(other)
        if time.monotonic() > end_s:
            raise TimeoutError(f"{client.url} does not end the prompts {', '.join(others)}, which were interrupted {LEFTOVER_S:.0f} s ago")
        time.sleep(POLL_S)


def _others(client: ComfyClient, prompt_id: str) -> list[str]:
    running, waiting = client.queue_state()
    return [other for other in (*running, *waiting) if other != prompt_id]


def _unheard(_news: Progress | Stage) -> None:
    """The text of the sampler says more."""


def describe(progress: Mapping[str, Any]) -> str:
    """Where a job is, in words: clip 2 of 3, step 17/40."""
    if "clip" not in progress:
        return "begun"
    step = f", step {progress['step']}/{progress['steps']}" if progress.get("steps") else ""
    return f"clip {progress['clip']} of {progress['clips']}{step}"

"""The command: runs the comparison and prints the block."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..comfyui.errors import PromptFailed
from ..doctor.facts import collect
from ..doctor.finding import PROBLEM, Finding
from ..models.folders import FolderError, find_base, find_comfyui, find_model_folders
from ..predict import interrupted_by_signals, say
from ..predict.object_info import PromptError
from ..predict.options import FILE_FLAGS
from .agreement import judge_calls
from .block import block_text, environment_lines
from .files import file_lines

FAILED = 1


def run(options: argparse.Namespace) -> int:
    """Compare, print the block, and return the exit status: 0 if everything is in order, else 1."""
    try:
        with interrupted_by_signals():
            lines, findings = compare(options)
    except (ImportError, FolderError, PromptError, RuntimeError, OSError) as error:
        say(f"doctor --compare failed: {error}")
        return FAILED
    if options.json:
        print(json.dumps({"environment": lines, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(block_text(lines, findings))
    return int(any(finding.status == PROBLEM for finding in findings))


def compare(options: argparse.Namespace) -> tuple[Sequence[str], Sequence[Finding]]:
    """Do all of it: what there is, in lines, and the verdicts.

    Raises:
        FolderError, PromptError, ServerError, ComfyError: as `predict`.
    """
    if options.server:
        raise PromptError(
            "--compare starts a ComfyUI of its own: stop the one that runs, whose models fill the memory, and leave out --server."
        )
    from ..predict.connection import connect
    from .clip import choose_names, judge_clip, make_clip
    from .measuring import CALLS, call_models

    say("looking at this machine ...")
    comfyui = find_comfyui(options.comfyui)
    folders = find_model_folders(find_base(options.comfyui), options.models_dir)
    lines = environment_lines(collect(comfyui=comfyui, models_dir=options.models_dir))
    with tempfile.TemporaryDirectory(prefix="wan_s2v_compare_") as folder:
        server = argparse.Namespace(
            server=None, auth=(), headers=[], comfyui=comfyui, models_dir=folders.models, output_dir=Path(folder) / "output"
        )
        with connect(server, say, [CALLS]) as client:
            names = choose_names(
                client.object_info(), {part: getattr(options, flag.replace("-", "_")) for flag, part in FILE_FLAGS.items()}
            )
            lines += file_lines(folders, names)
            say("calling our model and ComfyUI's own ...")
            findings = judged("Model calls", lambda: judge_calls(call_models(client, folders, names["model"])))
            say(f"making a clip of {options.seconds:g} s in {options.steps} steps ...")
            findings += judged("Clip", lambda: judge_clip(*make_clip(client, options, names, Path(folder) / "clip.mp4")))
        return lines, findings


def judged(topic: str, measure: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Verdicts; a node that fails or a file that cannot be read is one, too."""
    try:
        return list(measure())
    except (PromptFailed, ValueError) as error:
        return [Finding(PROBLEM, topic, f"failed: {error}", "Report it with this block.")]

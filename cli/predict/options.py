"""The options of `predict`, and what they say in the words of the graph."""

from __future__ import annotations

import argparse
import os.path
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comfyui.address import add_options as add_server_options
from ..models.files import PARTS
from ..models.folders import COMFYUI_HELP, MODELS_HELP
from .graph import (
    ALL_GPUS,
    AUDIO,
    FAST,
    LIVE_STEPS,
    MODEL,
    PREPARE,
    ROOT,
    SAMPLER,
    TEXT,
    VAE,
    WITHOUT_MASK,
    Lora,
    Request,
    inputs_of,
    quick_start,
)
from .object_info import PromptError
from .speakers import Speaker, parse_speaker, problem_of

try:
    from ...wan_s2v_model.limits import FRAMES_PER_CLIP, SIDES_PX
    from ...wan_s2v_model.runs.changes import IF_CHANGED
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.limits import FRAMES_PER_CLIP, SIDES_PX
    from wan_s2v_model.runs.changes import IF_CHANGED

PICTURE = ROOT / "samples" / "sample_portrait.png"
SOUND = ROOT / "samples" / "sample_speech.wav"
OUTPUT = Path("outputs") / "output.mp4"
STANDARD_OUTPUT = Path("-")
SIZES = {"480p": "480P", "720p": "720P"}
CHANGED_RUN = {choice.partition(" from")[0].replace(" ", "-"): choice for choice in IF_CHANGED}  # new-take, stop, redo
LONGEST_DEFAULT = 30  # characters in the help


def number_of_frames(text: str) -> int:
    frames = int(text)
    if not FRAMES_PER_CLIP.allow(frames):
        raise argparse.ArgumentTypeError(f"must be a multiple of {FRAMES_PER_CLIP}, got {frames}")
    return frames


def number_of_gpus(text: str) -> int:
    if text == "all":
        return ALL_GPUS
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number or all, got {text}")
    return int(text)


def changed_run(text: str) -> str:
    """The choice of Sample Video, of which the command line takes the first words."""
    if text not in CHANGED_RUN:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(CHANGED_RUN)}, got {text!r}")
    return CHANGED_RUN[text]


@dataclass(frozen=True)
class Setting:
    """An option that sets one input of the graph; without it the quick start decides."""

    flag: str
    node: str
    name: str
    parse: Callable[[str], Any]
    metavar: str
    help: str


SETTINGS = (
    Setting("prompt", "WanS2VTextEncode", "prompt", str, "TEXT", "what the video shows"),
    Setting("negative", "WanS2VTextEncode", "negative_prompt", str, "TEXT", "what it must not show"),
    Setting("steps", SAMPLER, "steps", int, "N", "sampling steps per clip"),
    Setting("guidance", SAMPLER, "cfg", float, "SCALE", "classifier-free guidance; 1: none, half the model calls"),
    Setting("frames", PREPARE, "frames_per_clip", number_of_frames, "N", "frames per clip, a multiple of 4"),
    Setting("seed", SAMPLER, "seed", int, "N", "another number gives another video"),
    Setting("start", "WanS2VAudioEncode", "start", float, "S", "second of the sound at which the video begins"),
    Setting("duration", "WanS2VAudioEncode", "duration", float, "S", "length in seconds; 0: to the end of the sound"),
    Setting("run-name", SAMPLER, "run_name", str, "NAME", "keep finished clips; the same command then continues after a crash or Ctrl-C"),
    Setting(
        "if-changed", SAMPLER, "if_changed", changed_run, "WHAT", f"if --run-name was made with other inputs: {', '.join(CHANGED_RUN)}"
    ),
    Setting("redo-from-clip", SAMPLER, "redo_from_clip", int, "N", "make the clips of --run-name anew from this one on; the first is 1"),
)
FILE_FLAGS = {"model": "model", "text-encoder": "text", "audio-encoder": "audio", "vae": "vae"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of the command."""
    _add_inputs(parser.add_argument_group("what goes in"))
    _add_video(parser.add_argument_group("the video"))
    _add_files(parser.add_argument_group("model files (default: the usual names, else what looks right)"))
    _add_server(parser.add_argument_group("server"))


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image", type=existing_file, metavar="FILE", help="picture of who talks (default: one of --video, else the sample)"
    )
    group.add_argument("--audio", type=existing_file, metavar="FILE", help="speech or song (default: the sample)")
    group.add_argument("--speaker", action="append", type=speaker, metavar="SOUND:PLACE", default=[], dest="speakers",
                       help="one of several who talk, up to four: a sound, and a mask (white or transparent) or a box in the picture, as "
                       "50%%,0,50%%,100%%; without a sound one who listens; --audio is then what the video plays")  # fmt: skip
    group.add_argument("--pose", type=existing_file, metavar="FILE", help="pose video, e.g. of DWPose, at any frame rate")
    group.add_argument("--video", type=existing_file, metavar="FILE", help="a finished video that is given the sound, at its size and rate")
    mask = f"picture of the size of --video: white, or transparent, may change (without it all, and strength is {WITHOUT_MASK['strength']})"
    group.add_argument("--video-mask", type=existing_file, metavar="FILE", help=mask)


def _add_video(group: argparse._ArgumentGroup) -> None:
    output = f".mp4, .webm or .mkv; an older file is replaced (default: {OUTPUT.as_posix()})"
    group.add_argument("--output", type=output_file, metavar="FILE", default=OUTPUT, help=output)
    group.add_argument("--size", type=size, metavar="SIZE", help="480p, 720p or WxH in pixels; with p the picture decides the aspect "
                       "(default: 480p)")  # fmt: skip
    graph = quick_start()
    for setting in SETTINGS:
        default = str(inputs_of(graph, setting.node)[setting.name])
        text = setting.help + (f" (default: {default})" if 0 < len(default) <= LONGEST_DEFAULT else "")
        group.add_argument(f"--{setting.flag}", type=setting.parse, metavar=setting.metavar, help=text)
    fast = ", ".join(f"{name} {value}" for name, value in FAST.items())
    group.add_argument("--fast", action="store_true", help=f"few steps with a LoRA, at some loss: {fast}; other options still win")
    group.add_argument("--live", action="store_true", help="25 frames per second without borders, by Live-Avatar's LoRA; with --output - "
                       "the video goes to the standard output while it is made")  # fmt: skip
    group.add_argument("--set", action="append", type=change, metavar="NODE.INPUT=VALUE", default=[], dest="changes",
                       help="any other input of the graph, e.g. WanS2VPrepare.sync_mode=official; can be repeated")  # fmt: skip


def _add_files(group: argparse._ArgumentGroup) -> None:
    for flag, part in FILE_FLAGS.items():
        group.add_argument(f"--{flag}", metavar="NAME", help=f"file in models/{PARTS[part].folder}")
    lora = "LoRA in models/loras, with its strength (default: 1); can be repeated"
    group.add_argument("--lora", action="append", type=lora_choice, metavar="NAME[:STRENGTH]", default=[], help=lora)
    group.add_argument("--gpus", type=number_of_gpus, metavar="N", default=1, help="let so many GPUs of the server work on the video; "
                       "or all (default: 1)")  # fmt: skip
    group.add_argument("--no-offload", action="store_true", help="keep all models on the GPU: 46 GB of weights, and room to compute")


def _add_server(group: argparse._ArgumentGroup) -> None:
    add_server_options(group, "start one")
    group.add_argument("--comfyui", type=Path, metavar="DIR", help=COMFYUI_HELP)
    group.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_HELP)
    group.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for runs and videos of the server that is started "
                       "(default: ComfyUI's output folder)")  # fmt: skip
    group.add_argument("--dry-run", action="store_true", help="only say whether it can be made there and how long that takes; needs a "
                       "ComfyUI, but uploads and makes nothing")  # fmt: skip
    group.add_argument("--json", action="store_true", help="print the outcome as JSON; progress still goes to the error output")


# --- types of options


def existing_file(text: str) -> Path:
    path = Path(text)
    if not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def output_file(text: str) -> Path:
    path = Path(text)
    if path != STANDARD_OUTPUT and (os.path.isdir(path) or not path.suffix):
        raise argparse.ArgumentTypeError(f"must be the name of a file such as {OUTPUT.as_posix()}, got {text!r}")
    return path


def size(text: str) -> dict[str, Any]:
    """The inputs of Prepare Video for 480p, 720p or WxH."""
    if preset := SIZES.get(text.lower()):
        return {"size": preset}
    sides = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not sides:
        raise argparse.ArgumentTypeError(f"must be 480p, 720p or WxH such as 832x480, got {text!r}")
    width, height = int(sides[1]), int(sides[2])
    if not (SIDES_PX.allow(width) and SIDES_PX.allow(height)):
        raise argparse.ArgumentTypeError(f"sides must be multiples of {SIDES_PX}, got {text}")
    return {"size": "custom", "size.width": width, "size.height": height}


def change(text: str) -> str:
    if not re.match(r"\w+\.[\w.]+=", text):
        raise argparse.ArgumentTypeError(f"must be NODE.INPUT=VALUE, got {text!r}")
    return text


def speaker(text: str) -> Speaker:
    try:
        return parse_speaker(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def lora_choice(text: str) -> Lora:
    """NAME or NAME:STRENGTH."""
    name, _, strength = text.rpartition(":")
    try:
        return Lora(name, float(strength)) if name else Lora(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be NAME or NAME:STRENGTH with a number, got {text!r}") from error


# --- in the words of the graph


def require_fitting(options: argparse.Namespace) -> None:
    """Raise PromptError for options that mean nothing together."""
    if options.output == STANDARD_OUTPUT and not options.live:
        raise PromptError("--output - streams a video while it is made, which needs --live. Give the name of a file.")
    if options.output == STANDARD_OUTPUT and options.json:
        raise PromptError("--output - and --json both want the standard output. Leave one out.")
    if options.live and (problem := live_problem(options)):
        raise PromptError(problem)


def live_problem(options: argparse.Namespace) -> str | None:
    """What does not go with --live, None if nothing."""
    lost = [f"--{name}" for name in ("fast", "guidance", "frames", "negative") if getattr(options, name)]
    refused = {
        f"{', '.join(lost)} mean nothing with --live: nothing is guided, and clips have 48 frames.": lost,
        "--dry-run does not know how long --live takes. Leave one out.": options.dry_run,
        "--video is dubbed at 16 frames per second, and --live makes 25 from a picture. Leave one out.": options.video,
        f"--steps must be {' or '.join(map(str, LIVE_STEPS))} with --live, got {options.steps}.": options.steps not in (None, *LIVE_STEPS),
    }
    return next((words for words, is_so in refused.items() if is_so), None)


def request_from(options: argparse.Namespace) -> Request:
    """What the options ask for."""
    require_fitting(options)
    inputs: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        value = getattr(options, setting.flag.replace("-", "_"))
        if value is not None:
            inputs.setdefault(setting.node, {})[setting.name] = value
    if options.size:
        inputs.setdefault(PREPARE, {}).update(options.size)
    if options.no_offload:
        for node in (MODEL, TEXT, AUDIO, VAE):
            inputs.setdefault(node, {})["offload"] = False
    if problem := problem_of(options.speakers):
        raise PromptError(problem)
    spoken = [one.sound for one in options.speakers if one.sound]
    files = {part: getattr(options, flag.replace("-", "_")) for flag, part in FILE_FLAGS.items()}
    return Request(
        image=options.image or (None if options.video else PICTURE),
        audio=spoken[0] if spoken else options.audio or SOUND,
        pose=options.pose,
        video=options.video,
        video_mask=options.video_mask,
        files={part: name for part, name in files.items() if name},
        inputs=inputs,
        changes=options.changes,
        loras=options.lora,
        suffix=options.output.suffix[1:].lower() or "mp4",
        fast=options.fast,
        gpus=options.gpus,
        live=options.live,
        speakers=options.speakers,
        played=options.audio if spoken else None,
    )

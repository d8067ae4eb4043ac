"""The quick-start graph, filled with what was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..command import command
from ..models.files import FILES, PARTS, TINY_FILES
from ..models.folders import ROOT
from .object_info import DYNAMIC_COMBO, GPUS, PromptError, all_inputs, choices, input_spec, require_fitting_values, require_nodes
from .speakers import Speaker

WORKFLOW = ROOT / "cli" / "workflows" / "quick_start.json"
MODEL, TEXT, AUDIO, VAE, LORA = (f"WanS2V{name}Loader" for name in ("Model", "TextEncoder", "AudioEncoder", "VAE", "Lora"))
POSE, PREPARE, SAVE = "WanS2VPose", "WanS2VPrepare", "WanS2VSaveVideo"
SAMPLER, LIVE_SAMPLER = SAMPLERS = "WanS2VSampler", "WanS2VLiveSampler"
AUDIO_ENCODE, SPEAKERS = "WanS2VAudioEncode", "WanS2VSpeakers"
DUB = "WanS2VDub"
DUB_DEFAULTS = {
    **{"feather": 16, "strength": 1.0, "at_end": "hold", "work_on": "whole picture"},
    **{"reference_at": 0.0, "loop_seconds": 2.0, "fps": 16.0},
}
WITHOUT_MASK = {"strength": 0.6}  # where all of a dubbed picture may change
FILE_INPUTS = {  # part -> node and input that choose its file
    "model": (MODEL, "model_name"),
    "text": (TEXT, "text_encoder_name"),
    "audio": (AUDIO, "audio_encoder_name"),
    "vae": (VAE, "vae_name"),
    "lora": (LORA, "lora_name"),
}
OF_LIVE = ("model", "positive", "vae", "plan", "seed", "run_name", "if_changed", "redo_from_clip")  # inputs that both samplers have
LIVE_STEPS = (4, 3)
FAST = {"steps": 4, "cfg": 1.0, "shift": 5.0, "solver": "euler"}  # of the sampler, with the LoRA of few steps
LOAD_AUDIO = "LoadAudio", "Sound", "audio"  # type, title, input
ALL_GPUS = 64  # more than any machine has
FAST_LORA, LIVE_LORA = (next(file.name for file in FILES["comfy"] if file.part == part) for part in ("lora", "live"))
PARSERS: dict[str, Callable[[str], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "COMBO": str,
    DYNAMIC_COMBO: str,
    "BOOLEAN": lambda text: {"true": True, "false": False}[text.lower()],
}

Prompt = dict[str, dict[str, Any]]
Waiting = list[tuple[dict[str, Any], str, Path]]  # inputs of a node, the name among them, and the file that is to be uploaded for it


@dataclass(frozen=True)
class Lora:
    """A LoRA file; without a name the one of few steps, or of live video."""

    name: str | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class Request:
    """What the video is made of.

    Attributes:
        image, audio, pose: files on this machine. Without an image it is a picture of the video.
        video, video_mask: a finished video that is given the sound, and a picture of what of it may change.
        files: file name by part, as the loaders list it; without one the usual file, else one that looks right.
        inputs: node type -> input -> value, what departs from the quick start.
        changes: further inputs in words, `NODE.INPUT=VALUE`; the server says of which type they are.
        suffix: of the video file, e.g. "mp4"; decides its format.
        fast: few steps with a LoRA; `inputs` and `loras` still win.
        gpus: how many of them work on the video at most.
        live: 25 frames per second by Live-Avatar's LoRA.
        speakers: each with a sound and a place; `audio` is then the first sound of theirs. played: what the video plays instead.
    """

    image: Path | None
    audio: Path
    pose: Path | None = None
    video: Path | None = None
    video_mask: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Sequence[str] = ()
    loras: Sequence[Lora] = ()
    suffix: str = "mp4"
    fast: bool = False
    gpus: int = 1
    live: bool = False
    speakers: Sequence[Speaker] = ()
    played: Path | None = None

    @property
    def sounds(self) -> list[Path]:
        """All files of sound."""
        return list(filter(None, (self.audio, self.played, *(speaker.sound for speaker in self.speakers))))


def quick_start() -> Prompt:
    """The quick-start workflow in API format."""
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def inputs_of(prompt: Prompt, node_type: str) -> dict[str, Any]:
    """The inputs of the first node of a type."""
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == node_type)


def sampler_of(prompt: Prompt) -> dict[str, Any]:
    """The inputs of the sampler, whichever it is."""
    return next(node["inputs"] for node in prompt.values() if node["class_type"] in SAMPLERS)


def build_prompt(request: Request, object_info: Mapping[str, Any], upload: Callable[[Path], str]) -> Prompt:
    """Fill the quick start; nothing is uploaded before everything else is known to be there.

    Args:
        object_info: the server's answer to /object_info.
        upload: puts a file into the server's input folder and returns its name there.
    Raises:
        PromptError: with every model file that is missing, or the option that does not fit.
    """
    prompt = quick_start()
    require_nodes(prompt, object_info)
    if request.fast:
        inputs_of(prompt, SAMPLER).update(FAST)
    for node_type, values in request.inputs.items():
        inputs_of(prompt, node_type).update(values)
    choose_files(prompt, object_info, request.files)
    usual = "live" if request.live else "lora"
    add_loras(prompt, object_info, request.loras or ([Lora()] if request.fast or request.live else []), usual)
    if request.gpus > 1:
        use_gpus(prompt, object_info, request.gpus)
    if request.live:
        go_live(prompt, object_info)
    waiting = add_speakers(prompt, object_info, request) if request.speakers else []
    waiting += add_dub(prompt, object_info, request)
    for change in request.changes:
        apply_change(prompt, object_info, change)
    choose_format(prompt, object_info, request.suffix)
    require_fitting_values(prompt, object_info)
    if request.image is not None:
        inputs_of(prompt, "LoadImage")["image"] = upload(request.image)
    inputs_of(prompt, "LoadAudio")["audio"] = upload(request.audio)
    for inputs, name, file in waiting:
        inputs[name] = upload(file)
    if request.pose is not None:
        input_spec(object_info, POSE, "video")
        add_pose(prompt, upload(request.pose))
    return prompt


# --- files of models


def choose_files(prompt: Prompt, object_info: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    """Set the files of the loaders, or raise with a list of all that are missing."""
    missing = []
    for part in (part for part in FILE_INPUTS if PARTS[part].needed):
        inputs, name = inputs_of(prompt, FILE_INPUTS[part][0]), FILE_INPUTS[part][1]
        chosen = choose_file(part, choices(object_info, *FILE_INPUTS[part]), wanted.get(part), usual=inputs[name])
        if chosen is None:
            missing.append((part, wanted.get(part) or inputs[name]))
        inputs[name] = chosen
    require_files(missing, object_info)


def add_loras(prompt: Prompt, object_info: Mapping[str, Any], loras: Sequence[Lora], part: str = "lora") -> None:
    """Put the LoRAs between the model loader and the sampler, in their order; one without a name is the usual one of the part."""
    available, usual = choices(object_info, *FILE_INPUTS["lora"]) if loras else [], LIVE_LORA if part == "live" else FAST_LORA
    chosen = [choose_file(part, available, lora.name, usual=usual) for lora in loras]
    lost = [lora.name or usual for lora, name in zip(loras, chosen, strict=True) if name is None]
    require_files([(part, name) for name in lost], object_info)
    sampler = inputs_of(prompt, SAMPLER)
    for lora, name in zip(loras, chosen, strict=True):
        inputs = {"model": sampler["model"], "lora_name": name, "strength": lora.strength}
        sampler["model"] = [add_node(prompt, LORA, "Load LoRA (Wan S2V)", inputs), 0]


def go_live(prompt: Prompt, object_info: Mapping[str, Any]) -> None:
    """Put the live sampler in the place of the other one, and let the sound be heard at its frame rate."""
    input_spec(object_info, LIVE_SAMPLER, "plan")
    sampler = next(node for node in prompt.values() if node["class_type"] == SAMPLER)
    steps = sampler["inputs"]["steps"]
    inputs = {name: value for name, value in sampler["inputs"].items() if name in OF_LIVE}
    inputs["steps"] = str(steps if steps in LIVE_STEPS else LIVE_STEPS[0])
    sampler |= {"class_type": LIVE_SAMPLER, "inputs": inputs, "_meta": {"title": "Sample Video Live (Wan S2V)"}}
    inputs_of(prompt, AUDIO_ENCODE)["frame_rate"] = "25"


def use_gpus(prompt: Prompt, object_info: Mapping[str, Any], count: int) -> None:
    """Let so many GPUs work on the video: ComfyUI's own node in front of the sampler."""
    input_spec(object_info, GPUS, "max_gpus")
    sampler = inputs_of(prompt, SAMPLER)
    sampler["model"] = [add_node(prompt, GPUS, "MultiGPU CFG Split", {"model": sampler["model"], "max_gpus": count}), 0]


def choose_file(part: str, available: Sequence[str], wanted: str | None, *, usual: str) -> str | None:
    """The wanted file; without a wish the usual one, else the first that looks right; None if there is none."""
    offered = {with_slashes(name): name for name in available}  # a server on Windows may list them with backslashes
    if wanted or usual in offered:
        return offered.get(with_slashes(wanted or usual))
    pattern = re.compile(PARTS[part].pattern, re.IGNORECASE)
    return min((name for key, name in offered.items() if pattern.search(key) and key not in TINY_FILES), default=None)


def with_slashes(name: str) -> str:
    """A file's name as it is written elsewhere than on Windows."""
    return name.replace("\\", "/")


def require_files(missing: Sequence[tuple[str, str]], object_info: Mapping[str, Any]) -> None:
    if missing:
        raise PromptError("model files are missing:\n" + "\n".join(_missing_lines(missing, object_info)))


def _missing_lines(missing: Sequence[tuple[str, str]], object_info: Mapping[str, Any]) -> Iterator[str]:
    for part, name in missing:
        there = choices(object_info, *FILE_INPUTS.get(part, FILE_INPUTS["lora"]))
        yield f"  {name}  in  models/{PARTS[part].folder}  (there: {', '.join(there) or 'nothing'})"
    parts = ",".join(dict.fromkeys(part for part, _ in missing))
    yield f"`{command(f'download --only {parts}')}` fetches the usual ones."


# --- other inputs


def apply_change(prompt: Prompt, object_info: Mapping[str, Any], change: str) -> None:
    """Apply `NODE.INPUT=VALUE` to every node of that type."""
    target, _, text = change.partition("=")
    node_type, _, name = target.partition(".")
    nodes = [node["inputs"] for node in prompt.values() if node["class_type"] == node_type]
    if not nodes:
        types = ", ".join(sorted({node["class_type"] for node in prompt.values()}))
        raise PromptError(f"--set {change}: there is no node {node_type} in the graph; it has {types}.")
    kind = input_spec(object_info, node_type, name)[0]
    kind = "COMBO" if isinstance(kind, list) else kind
    try:
        value = PARSERS[kind](text)
    except KeyError as error:
        hint = "true or false" if kind == "BOOLEAN" else f"a connection of type {kind}, which cannot be set"
        raise PromptError(f"--set {change}: {name} is {hint}.") from error
    except ValueError as error:
        raise PromptError(f"--set {change}: {name} must be a number ({kind}), got {text!r}.") from error
    for inputs in nodes:
        inputs[name] = value


def choose_format(prompt: Prompt, object_info: Mapping[str, Any], suffix: str) -> None:
    """Choose a format of the wanted container, unless the present one is already."""
    inputs, formats = inputs_of(prompt, SAVE), choices(object_info, SAVE, "format")
    if container(inputs["format"]) == suffix:
        return
    fitting = [name for name in formats if container(name) == suffix]
    if not fitting:
        suffixes = ", ".join(f".{name}" for name in dict.fromkeys(map(container, formats)))
        raise PromptError(f"The video can be written as {suffixes}, not as .{suffix}. Give --output a name with one of these endings.")
    inputs["format"] = fitting[0]


def container(format_name: str) -> str:
    """mp4 of `mp4 (h264)`."""
    return format_name.split()[0]


def add_pose(prompt: Prompt, name: str) -> None:
    """Connect an uploaded video to the plan as its pose, at its own frame rate."""
    loader = add_node(prompt, "LoadVideo", "Pose Video", {"file": name})
    defaults = {"strength": 1.0, "at_end": "hold", "start_percent": 0.0, "end_percent": 1.0, "fps": 16.0}
    pose = add_node(prompt, POSE, "Pose (Wan S2V)", {"video": [loader, 0], **defaults})
    inputs_of(prompt, PREPARE)["pose"] = [pose, 0]


def add_speakers(prompt: Prompt, object_info: Mapping[str, Any], request: Request) -> Waiting:
    """Put the node between the sounds and the plan; the first one who has a sound takes the nodes that are there.

    Returns:
        What has still to be uploaded: the inputs of a node, the name among them, the file.
    """
    input_spec(object_info, SPEAKERS, "turns")
    known, encode = dict(all_inputs(object_info[SPEAKERS]["input"])), inputs_of(prompt, AUDIO_ENCODE)
    inputs = {name: spec[1]["default"] for name, spec in known.items() if len(spec) > 1 and "default" in spec[1]}
    waiting: Waiting = []

    def load(node_type: str, title: str, name: str, file: Path, **values: Any) -> list[Any]:
        node = add_node(prompt, node_type, title, {name: "", **values})
        waiting.append((prompt[node]["inputs"], name, file))
        return [node, 0]

    def hear(number: int, sound: Path) -> str:
        return add_node(prompt, AUDIO_ENCODE, f"Encode Audio {number}", {**encode, "audio": load(*LOAD_AUDIO, sound)})

    first: str | None = next(node for node, item in prompt.items() if item["class_type"] == AUDIO_ENCODE)
    for number, speaker in enumerate(request.speakers, start=1):
        if speaker.sound is not None:
            inputs[f"encoded_audio_{number}"], first = [first or hear(number, speaker.sound), 0], None
        if isinstance(speaker.place, Path):
            inputs[f"mask_{number}"] = load("LoadImageMask", "Mask", "image", speaker.place, channel=mask_channel(speaker.place))
        else:
            inputs[f"box_{number}"] = speaker.place.replace(",", " ")
    if request.played is not None:
        inputs["played_audio"] = load(*LOAD_AUDIO, request.played)
    node = add_node(prompt, SPEAKERS, "Speakers (Wan S2V)", {"audio_encoder": encode["audio_encoder"], **inputs})
    inputs_of(prompt, PREPARE)["encoded_audio"] = [node, 0]
    return waiting


def add_dub(prompt: Prompt, object_info: Mapping[str, Any], request: Request) -> Waiting:
    """Give the sound to a video, if there is one; without an image of its own it brings one.

    Returns:
        As `add_speakers`.
    """
    if request.video is None:
        if request.video_mask is not None:
            raise PromptError("--video-mask says what of --video may change, and there is no --video.")
        return []
    input_spec(object_info, DUB, "source_video")
    inputs: dict[str, Any] = {**DUB_DEFAULTS, "source_video": [add_node(prompt, "LoadVideo", "Video to Dub", {"file": ""}), 0]}
    waiting: Waiting = [(prompt[inputs["source_video"][0]]["inputs"], "file", request.video)]
    if request.video_mask is None:
        inputs.update(WITHOUT_MASK)
    else:
        loaded = {"image": "", "channel": mask_channel(request.video_mask)}
        inputs["source_mask"] = [add_node(prompt, "LoadImageMask", "What may change", loaded), 0]
        waiting.append((loaded, "image", request.video_mask))
    dub, plan = add_node(prompt, DUB, "Dub Video (Wan S2V)", inputs), inputs_of(prompt, PREPARE)
    plan["dub"] = [dub, 0]
    if request.image is None:
        del prompt[plan["image"][0]]
        plan["image"] = [dub, 1]
    return waiting


def mask_channel(picture: Path) -> str:
    """Where a picture has its mask: in what is transparent, as ComfyUI's mask editor stores it, else in what is white.

    Raises:
        PromptError: it is no picture.
    """
    from .picture import opened_picture  # needs Pillow

    with opened_picture(picture) as image:
        has_alpha = image.has_transparency_data
        return "alpha" if has_alpha and image.convert("RGBA").getchannel("A").getextrema()[0] != 255 else "red"


def add_node(prompt: Prompt, node_type: str, title: str, inputs: dict[str, Any]) -> str:
    """Add a node and return its id."""
    node_id = str(max(map(int, prompt)) + 1)
    prompt[node_id] = {"class_type": node_type, "inputs": inputs, "_meta": {"title": title}}
    return node_id

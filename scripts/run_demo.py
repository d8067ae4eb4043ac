"""Make a talking video through a headless ComfyUI: server, queue, every node of the quick-start workflow, MP4 with sound.

With `--models tiny` (default) the weights are random and made on the spot: the video is coloured noise with the right
length, size and sound. With `--models real` the files are taken from the models folder of ComfyUI or of this demo.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from cli.client import ComfyClient, ComfyError, OutputFile, Progress  # noqa: E402
from cli.server import MODEL_FOLDERS, ComfyServer, ServerError, prepare_base_directory  # noqa: E402

BASE = ROOT / ".demo"
WORKFLOW = ROOT / "cli" / "workflows" / "quick_start.json"
TINY_SIZE_PX = 128
TINY_STEPS = 4

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ModelInput:
    """One model file of the workflow: where it is chosen, where it lies, how to recognise it.

    Attributes:
        flag: option of this script.
        node, name: node type and input that name the file.
        folder: below `models/`.
        pattern: regular expression that real files match.
        tiny: name of the file with random weights.
    """

    flag: str
    node: str
    name: str
    folder: str
    pattern: str
    tiny: str


MODEL = ModelInput(
    flag="model",
    node="WanS2VModelLoader",
    name="model_name",
    folder="diffusion_models",
    pattern="s2v",
    tiny="wan_s2v_tiny.safetensors",
)
TEXT_ENCODER = ModelInput(
    flag="text-encoder",
    node="WanS2VTextEncoderLoader",
    name="text_encoder_name",
    folder="text_encoders",
    pattern="umt5",
    tiny="umt5_tiny.safetensors",
)
AUDIO_ENCODER = ModelInput(
    flag="audio-encoder",
    node="WanS2VAudioEncoderLoader",
    name="audio_encoder_name",
    folder="audio_encoders",
    pattern="wav2vec2",
    tiny="wav2vec2-tiny/model.safetensors",
)
VAE = ModelInput(
    flag="vae",
    node="WanS2VVAELoader",
    name="vae_name",
    folder="vae",
    pattern=r"wan_?2\.1",
    tiny="wan_2.1_vae_tiny.safetensors",
)
MODEL_INPUTS = (MODEL, TEXT_ENCODER, AUDIO_ENCODER, VAE)


class DemoError(Exception):
    """Something the user can put right."""


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped then too
    try:
        run_demo(options)
    except (DemoError, ServerError, ComfyError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--models", choices=("tiny", "real"), help="random weights, or the files in the models folders (default: tiny)")
    for model in MODEL_INPUTS:
        parser.add_argument(f"--{model.flag}", dest=model.name, metavar="NAME", help=f"file in models/{model.folder}; means --models real")
    parser.add_argument("--image", type=existing_file, default=ROOT / "samples" / "sample_portrait.png", help="picture of the speaker")
    parser.add_argument("--audio", type=existing_file, default=ROOT / "samples" / "sample_speech.wav", help="speech or song")
    parser.add_argument("--prompt", help="what the video shows")
    parser.add_argument("--steps", type=int, help=f"sampling steps (default: {TINY_STEPS} for tiny models, else 40)")
    parser.add_argument("--port", type=int, help="port of the server on loopback (default: a free one)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="copy the video to this file")
    options = parser.parse_args()
    options.models = options.models or ("real" if any(getattr(options, model.name) for model in MODEL_INPUTS) else "tiny")
    return options


def existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def run_demo(options: argparse.Namespace) -> None:
    """Start the server, make the video, say where it is."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui")
    base = prepare_base_directory(BASE, ROOT)
    if options.models == "tiny":
        subprocess.run([sys.executable, str(ROOT / "scripts" / "make_tiny_models.py"), str(base / "models")], check=True)
    cpu = not torch.cuda.is_available()
    server = ComfyServer(comfyui, base, cpu=cpu, extra_args=["--extra-model-paths-config", str(write_model_paths(base, comfyui))])
    server.port = options.port or server.port
    print(f"starting ComfyUI on port {server.port} ({'CPU' if cpu else 'GPU'}) ...", flush=True)
    started = time.monotonic()
    with server:
        print(f"ComfyUI ready in {time.monotonic() - started:.1f} s: {server.url}", flush=True)
        client = ComfyClient(server.url)
        prompt = build_prompt(client, options, model_folders=(base / "models", comfyui / "models"))
        started = time.monotonic()
        outputs = client.run(prompt, progress_printer(prompt))
    video = find_video(outputs, prompt).path(base)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        video = Path(shutil.copyfile(video, options.output))
    print(f"video made in {time.monotonic() - started:.1f} s: {video}")
    if inputs_of(prompt, "WanS2VModelLoader")[MODEL.name] == MODEL.tiny:
        print("RANDOM WEIGHTS: the picture is coloured noise; only its length, size and sound mean something.")


def write_model_paths(base: Path, comfyui: Path) -> Path:
    """Make the models of the ComfyUI folder visible to the demo's server.

    Returns:
        A configuration file for ComfyUI (JSON, which is YAML too).
    """
    folders = {"base_path": str(comfyui.resolve() / "models"), **{name: f"{name}/" for name in MODEL_FOLDERS}}
    path = base / "extra_model_paths.yaml"
    path.write_text(json.dumps({"comfyui": folders}, indent=2), encoding="utf-8")
    return path


# --- the prompt


def build_prompt(client: ComfyClient, options: argparse.Namespace, *, model_folders: tuple[Path, ...]) -> Prompt:
    """Fill the quick-start workflow with the chosen models, inputs and settings."""
    prompt: Prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    choose_models(prompt, client.object_info(), options, model_folders)
    inputs_of(prompt, "LoadImage")["image"] = client.upload(options.image)
    inputs_of(prompt, "LoadAudio")["audio"] = client.upload(options.audio)
    sampler = inputs_of(prompt, "WanS2VSampler")
    if options.models == "tiny":
        inputs_of(prompt, "WanS2VPrepare").update(size="custom", width=TINY_SIZE_PX, height=TINY_SIZE_PX)
        inputs_of(prompt, "WanS2VSaveVideo")["filename_prefix"] = "video/wan_s2v_random_weights"
        sampler["steps"] = TINY_STEPS
    sampler["steps"] = options.steps or sampler["steps"]
    if options.prompt:
        inputs_of(prompt, "WanS2VTextEncode")["prompt"] = options.prompt
    return prompt


def choose_models(prompt: Prompt, object_info: Mapping[str, Any], options: argparse.Namespace, model_folders: tuple[Path, ...]) -> None:
    """Set every model file of the prompt, or raise with a list of all that are missing."""
    missing = []
    for model in MODEL_INPUTS:
        inputs = inputs_of(prompt, model.node)
        wanted = getattr(options, model.name) or (model.tiny if options.models == "tiny" else None)
        chosen = choose_file(model, combo_options(object_info, model), wanted, usual=inputs[model.name])
        if chosen is None:
            missing.append(f"  {wanted or inputs[model.name]}  in  models/{model.folder}")
        else:
            inputs[model.name] = chosen
    if missing:
        places = " or ".join(str(folder) for folder in model_folders)
        raise DemoError("model files are missing:\n" + "\n".join(missing) + f"\nwhere models/ is {places}.")


def choose_file(model: ModelInput, available: list[str], wanted: str | None, *, usual: str) -> str | None:
    """The wanted file; without a wish the usual one, else the first that looks right; None if there is none."""
    if wanted:
        return wanted if wanted in available else None
    real = [name for name in available if name != model.tiny and re.search(model.pattern, name, re.IGNORECASE)]
    return usual if usual in real else next(iter(sorted(real)), None)


def combo_options(object_info: Mapping[str, Any], model: ModelInput) -> list[str]:
    """The file names that a loader node offers."""
    if model.node not in object_info:
        raise DemoError(f"ComfyUI did not load the pack: it has no node {model.node}. Look at {BASE / 'server.log'}.")
    kind, *rest = object_info[model.node]["input"]["required"][model.name]
    return kind if isinstance(kind, list) else rest[0]["options"]


def inputs_of(prompt: Prompt, node_type: str) -> dict[str, Any]:
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == node_type)


# --- the result


def progress_printer(prompt: Prompt) -> Callable[[Progress], None]:
    """A callback that prints clip, step and percent while sampling."""

    def show(progress: Progress) -> None:
        node = prompt.get(progress.node, {})
        if node.get("class_type") != "WanS2VSampler" or not progress.maximum:
            return
        print(sampling_line(int(progress.value), int(progress.maximum), node["inputs"]["steps"]), flush=True)

    return show


def sampling_line(value: int, maximum: int, steps: int) -> str:
    """Describe progress in steps over all clips, e.g. `clip 2/3 step 1/4 (42 %)`."""
    clip, step = divmod(max(value - 1, 0), steps)
    return f"  clip {clip + 1}/{max(maximum // steps, 1)} step {step + 1}/{steps} ({100 * value // maximum} %)"


def find_video(outputs: Mapping[str, Any], prompt: Prompt) -> OutputFile:
    """The file that the save node reports."""
    for node_id, shown in outputs.items():
        if prompt[node_id]["class_type"] == "WanS2VSaveVideo":
            file = next(item for items in shown.values() for item in items if isinstance(item, dict) and "filename" in item)
            return OutputFile(file["filename"], file["subfolder"], file["type"])
    raise DemoError("the prompt ended without a video; ComfyUI's answer: " + json.dumps(outputs)[:500])


if __name__ == "__main__":
    sys.exit(main())

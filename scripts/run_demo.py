"""Make a talking video through a headless ComfyUI: server, queue, every node of the quick-start workflow, MP4 with sound.

With `--models tiny` (default) the weights are random and made on the spot: the video is coloured noise with the right
length, size and sound. With `--models real` the files are taken from the models folder of ComfyUI or of this demo.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from cli.comfyui.client import ComfyClient, ComfyError  # noqa: E402
from cli.comfyui.server import ComfyServer, ServerError, has_accelerator, prepare_base_directory, write_model_paths  # noqa: E402
from cli.command import let_any_text_out  # noqa: E402
from cli.models.files import PARTS, TINY_FILES  # noqa: E402
from cli.predict.graph import MODEL, PREPARE, SAMPLER, SAVE, Request, inputs_of  # noqa: E402
from cli.predict.job import make_video  # noqa: E402
from cli.predict.object_info import PromptError  # noqa: E402
from cli.predict.options import FILE_FLAGS, PICTURE, SOUND, existing_file  # noqa: E402
from scripts.tiny_models.fill import make_tiny_models, tiny_file  # noqa: E402

BASE = ROOT / ".demo"
TINY_SIZE_PX = 128
TINY_STEPS = 4
TINY_INPUTS = {
    PREPARE: {"size": "custom", "size.width": TINY_SIZE_PX, "size.height": TINY_SIZE_PX},
    SAMPLER: {"steps": TINY_STEPS},
    SAVE: {"filename_prefix": "video/wan_s2v_random_weights"},
}


def main() -> int:
    let_any_text_out()
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped then too
    try:
        run_demo(options)
    except (PromptError, ServerError, ComfyError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--models", choices=("tiny", "real"), help="random weights, or the files in the models folders (default: tiny)")
    for flag, part in FILE_FLAGS.items():
        parser.add_argument(
            f"--{flag}", dest=f"{part}_file", metavar="NAME", help=f"file in models/{PARTS[part].folder}; means --models real"
        )
    parser.add_argument("--image", type=existing_file, default=PICTURE, help="picture of the speaker")
    parser.add_argument("--audio", type=existing_file, default=SOUND, help="speech or song")
    parser.add_argument("--prompt", help="what the video shows")
    parser.add_argument("--steps", type=int, help=f"sampling steps (default: {TINY_STEPS} for tiny models, else 40)")
    parser.add_argument("--port", type=int, help="port of the server on loopback (default: a free one)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="copy the video to this file")
    options = parser.parse_args()
    options.models = options.models or ("real" if any(getattr(options, f"{part}_file") for part in FILE_FLAGS.values()) else "tiny")
    return options


def run_demo(options: argparse.Namespace) -> None:
    """Start the server, make the video, say where it is."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui")
    base = prepare_base_directory(BASE, ROOT)
    if options.models == "tiny":
        make_tiny_models(base / "models")
    cpu = not has_accelerator()
    server = ComfyServer(
        comfyui, base, cpu=cpu, extra_args=["--extra-model-paths-config", str(write_model_paths(base, comfyui / "models"))]
    )
    server.port = options.port or server.port
    print(f"starting ComfyUI on port {server.port} ({'CPU' if cpu else 'GPU'}) ...", flush=True)
    started = time.monotonic()
    with server:
        print(f"ComfyUI ready in {time.monotonic() - started:.1f} s: {server.url}", flush=True)
        made = make_video(ComfyClient(server.url), request_from(options), lambda text: print(text, flush=True))
    video = made.file.path(base)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        video = Path(shutil.copyfile(video, options.output))
    print(f"video made in {made.seconds:.1f} s: {video}")
    if inputs_of(made.prompt, MODEL)["model_name"] in TINY_FILES:
        print("RANDOM WEIGHTS: the picture is coloured noise; only its length, size and sound mean something.")


def request_from(options: argparse.Namespace) -> Request:
    """The quick start with the options of the demo."""
    tiny = options.models == "tiny"
    inputs: dict[str, dict[str, Any]] = {node: dict(values) for node, values in TINY_INPUTS.items()} if tiny else {}
    if options.steps:
        inputs.setdefault(SAMPLER, {})["steps"] = options.steps
    if options.prompt:
        inputs["WanS2VTextEncode"] = {"prompt": options.prompt}
    wanted = {part: getattr(options, f"{part}_file") or (tiny_file(PARTS[part].folder) if tiny else None) for part in FILE_FLAGS.values()}
    files = {part: name for part, name in wanted.items() if name}
    return Request(image=options.image, audio=options.audio, files=files, inputs=inputs)


if __name__ == "__main__":
    sys.exit(main())

"""Load a workflow into ComfyUI's front end, check that no node is broken, and store a picture of the canvas.

Preview nodes are run with the tiny model set; nothing is sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.comfyui.server import ComfyServer, ServerError, prepare_base_directory  # noqa: E402
from scripts.pictures.canvas import find_browser, open_canvas  # noqa: E402
from scripts.pictures.marks import save_marked  # noqa: E402
from scripts.pictures.outdated import graph_mark  # noqa: E402
from scripts.tiny_models.fill import fill_base_directory  # noqa: E402
from scripts.workflows.graphs import QUICK_START  # noqa: E402

WORKFLOW = ROOT / QUICK_START.file
PICTURE = ROOT / "docs" / "images" / "quick_start.png"
WINDOW = (1366, 768)


def main() -> int:
    arguments = parse_arguments()
    browser = find_browser()
    if browser is None:
        print("No Chromium found. Install one (Debian: apt-get install chromium), then run this again.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base_directory(Path(folder), ROOT)
        fill_base_directory(base, real_names=True)
        try:
            problems = take_picture(arguments.workflow, arguments.output, base, browser)
        except ServerError as error:
            print(error, file=sys.stderr)
            return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    print(arguments.output)
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/screenshot", description=__doc__)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="workflow in UI format (default: the quick start)")
    parser.add_argument("--output", type=Path, default=PICTURE, help="PNG to write (default: docs/images/quick_start.png)")
    return parser.parse_args()


def take_picture(workflow: Path, output: Path, base: Path, browser: str) -> list[str]:
    """Store the picture and return what is wrong with the nodes."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    with (
        ComfyServer(comfyui, base, cpu=True, extra_args=["--disable-api-nodes"]) as server,
        open_canvas(server.url, browser=browser, size=WINDOW) as canvas,
    ):
        graph = json.loads(workflow.read_text(encoding="utf-8"))
        canvas.open_template(graph, workflow.stem)
        for node in graph["nodes"]:
            if node["type"] == "PreviewImage":
                canvas.run_until_picture(node["id"])
        canvas.screenshot(output)
        with Image.open(output) as picture:
            save_marked(picture.copy(), output, graph_mark(workflow), optimize=True)
        return canvas.problems()


if __name__ == "__main__":
    sys.exit(main())

"""Store a picture of every node, for the help pages, in web/docs/images.

The nodes stand alone on the canvas of ComfyUI's own front end. What a report shows comes of a run of the tiny models.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import wave
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.comfyui.server import ComfyServer, prepare_base_directory  # noqa: E402
from scripts.pictures.canvas import JOB_MESSAGE, RUN_NODE, RUN_TIMEOUT_MS, SETTLE_MS, Canvas, find_browser, open_canvas  # noqa: E402
from scripts.pictures.help_scenes import SCENES, TALKING, Scene  # noqa: E402
from scripts.pictures.marks import save_marked  # noqa: E402
from scripts.pictures.outdated import scene_mark  # noqa: E402
from scripts.tiny_models.fill import fill_base_directory  # noqa: E402
from scripts.workflows.graphs import ALL_NODES  # noqa: E402
from wan_s2v_model.media.video_formats import FORMATS  # noqa: E402
from wan_s2v_model.media.video_writer import VideoWriter  # noqa: E402

FOLDER = ROOT / "web" / "docs" / "images"
WINDOW = (2000, 1500)
COLOURS = 128  # of a stored picture
SCALE = 2  # sharp in a panel that is as wide as the node
PADDING = 16  # px around the node
CORNER = (110, 120)  # px of the window that the side bar and the menu cover
FPS = 25
MOUTH = (0.5, 0.42, 0.055, 0.05)  # of the sample portrait: centre and top, half the width, height, as shares of the width

ADD = "type => window.app.graph.add(LiteGraph.createNode(type)).id"
BUILD = """([type, links, size]) => {
    const { graph } = window.app;
    const node = type => graph.nodes.find(each => each.type === type) ?? graph.add(LiteGraph.createNode(type));
    const ends = end => [end.slice(0, end.lastIndexOf('.')), end.slice(end.lastIndexOf('.') + 1)];
    for (const link of links) {
        const [from, to] = link.split('>').map(end => end.trim());
        const [target, input] = ends(to), slot = node(target).inputs.findIndex(each => each.name === input);
        if (!from) { node(target).disconnectInput(slot); continue; }
        const [source, output] = ends(from);
        node(source).connect(node(source).outputs.findIndex(each => each.name === output), node(target), slot);
    }
    node(type).setSize(size);  // a preview takes the room that there is when it comes
    return node(type).id;
}"""
SET = """([type, values]) => {
    const node = window.app.graph.nodes.find(each => each.type === type);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(each => each.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
}"""
PLACE = """([id, size, corner, scale]) => {
    const { canvas, graph } = window.app, node = graph.getNodeById(id);
    graph.groups.slice().forEach(group => graph.remove(group));
    graph.nodes.filter(each => each !== node).forEach(each => graph.remove(each));
    const least = node.computeSize();
    node.setSize(size ?? [Math.max(least[0], 300), least[1]]);
    node.pos = [0, 0];
    canvas.deselectAll();
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = corner[0] / scale;
    canvas.ds.offset[1] = corner[1] / scale + 30;
    canvas.setDirty(true, true);
    return [node.size[0], node.size[1] + 30];
}"""
HAS_OUTPUT = "id => String(id) in window.app.nodeOutputs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/help-pictures", description=__doc__)
    parser.add_argument("nodes", nargs="*", choices=[*SCENES, []], metavar="NODE", help="ids of nodes (default: all)")
    nodes = parser.parse_args().nodes or list(SCENES)
    browser = find_browser()
    if browser is None:
        sys.exit("No Chromium found. Install one (Debian: apt-get install chromium), then run this again.")
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base_directory(Path(folder), ROOT)
        fill_base_directory(base, real_names=True)
        prepare(base)
        with (
            ComfyServer(Path(os.environ["COMFYUI_PATH"]), base, cpu=True, extra_args=["--disable-api-nodes"]) as server,
            open_canvas(server.url, browser=browser, size=WINDOW) as canvas,
        ):
            canvas.open(**{"Comfy.NodeBadge.NodeSourceBadgeMode": "None"})
            for path in take_pictures(canvas, nodes):
                print(path.relative_to(ROOT))


def take_pictures(canvas: Canvas, names: Sequence[str]) -> Iterator[Path]:
    """Store the pictures of these nodes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        yield _take(canvas, name, SCENES[name], FOLDER / f"{name}.png")


def _take(canvas: Canvas, name: str, scene: Scene, path: Path) -> Path:
    page = canvas.page
    node_id = _after_run(canvas, name, scene) if scene.run else _alone(canvas, name)
    page.evaluate(SET, [name, scene.values])
    width, height = page.evaluate(PLACE, [node_id, scene.size, CORNER, SCALE])
    page.wait_for_timeout(SETTLE_MS)
    left, top = (edge - PADDING for edge in CORNER)
    clip = {"x": left, "y": top, "width": SCALE * width + 2 * PADDING, "height": SCALE * height + 2 * PADDING}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    save_marked(picture, path, scene_mark(name, scene), optimize=True)
    return path


def _alone(canvas: Canvas, name: str) -> int:
    """The node on an empty canvas, with an id of its own: the front end keeps values of widgets by their node's id."""
    canvas.page.evaluate("() => window.app.graph.nodes.slice().forEach(node => window.app.graph.remove(node))")
    return canvas.page.evaluate(ADD, name)


def _after_run(canvas: Canvas, name: str, scene: Scene) -> int:
    """The node in a template, run."""
    page = canvas.page
    canvas.load(json.loads((ROOT / ALL_NODES.file).read_text(encoding="utf-8")), name)
    node_id = page.evaluate(BUILD, [name, scene.run.links, scene.size])
    for type_, values in scene.run.values.items():
        page.evaluate(SET, [type_, values])
    page.evaluate(RUN_NODE, str(node_id))
    page.wait_for_function(HAS_OUTPUT, arg=node_id, timeout=RUN_TIMEOUT_MS)
    page.wait_for_timeout(SETTLE_MS)
    page.get_by_text(JOB_MESSAGE).first.wait_for(state="hidden", timeout=RUN_TIMEOUT_MS)
    return node_id


def prepare(base: Path) -> None:
    """Put what the scenes load into the folders of a server."""
    for sample in (ROOT / "samples").iterdir():
        shutil.copy(sample, base / "input")
    write_talking_video(base / "input" / TALKING)


def write_talking_video(path: Path) -> None:
    """The sample portrait with a drawn mouth that opens with the sample speech."""
    portrait = Image.open(ROOT / "samples" / "sample_portrait.png").convert("RGB").resize((256, 256))
    with wave.open(str(ROOT / "samples" / "sample_speech.wav")) as file:
        rate, sound = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)
    loudness = np.sqrt([np.mean(part.astype(float) ** 2) for part in np.array_split(sound, round(len(sound) / rate * FPS))])
    width, height = portrait.size
    audio = torch.from_numpy(sound.astype(np.float32) / 32768)[None], rate
    form = {"fps": Fraction(FPS), "video_format": FORMATS["mp4 (h264)"], "quality": 18, "audio": audio, "metadata": {}}
    with VideoWriter(path, width=width, height=height, **form) as writer:
        for opening in loudness / loudness.max():
            writer.write(torch.from_numpy(np.array(_with_mouth(portrait, opening)))[None])


def _with_mouth(portrait: Image.Image, opening: float) -> Image.Image:
    picture = portrait.copy()
    x, y, half_width, height = (share * portrait.width for share in MOUTH)
    ImageDraw.Draw(picture).ellipse((x - half_width, y, x + half_width, y + height * opening), fill=(60, 15, 20))
    return picture


if __name__ == "__main__":
    main()

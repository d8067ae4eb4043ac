"""Store a picture of every node in use, for the help pages, in web/docs/images.

The nodes come from the quick-start graph in ComfyUI's own front end, with the tiny models: what they show of a video is coloured noise.
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
from scripts.pictures.help_scenes import INTERPOLATION, SCENES, TALKING, Scene  # noqa: E402
from scripts.pictures.marks import save_marked  # noqa: E402
from scripts.pictures.outdated import scene_mark  # noqa: E402
from scripts.tiny_models.fill import fill_base_directory  # noqa: E402
from wan_s2v_model.media.video_formats import FORMATS  # noqa: E402
from wan_s2v_model.media.video_writer import VideoWriter  # noqa: E402

FOLDER = ROOT / "web" / "docs" / "images"
GRAPH = ROOT / "workflows" / "wan_s2v_quick_start.json"
WINDOW = (2000, 1300)
COLOURS = 128  # of a stored picture
PADDING = 24  # px around the nodes
CORNER = (110, 120)  # px of the window that the side bar and the menu cover
FPS = 25
MOUTH = (0.5, 0.42, 0.055, 0.05)  # of the sample portrait: centre and top, half the width, height, as shares of the width

BUILD = """([columns, links, values]) => {
    const graph = window.app.graph, nodes = {};
    const node = key => {
        if (key in nodes) return nodes[key];
        const [type, title] = key.split('#'), used = Object.values(nodes);
        let found = graph.nodes.find(each => each.type === type && !used.includes(each));
        if (!found) {
            found = LiteGraph.createNode(type);
            graph.add(found);
        }
        if (title) found.title = title;
        return nodes[key] = found;
    };
    columns.flat().forEach(node);
    for (const link of links) {
        const [from, to] = link.split('>').map(end => end.trim());
        const [target, input] = [to.slice(0, to.lastIndexOf('.')), to.slice(to.lastIndexOf('.') + 1)];
        const slot = node(target).inputs.findIndex(each => each.name === input);
        if (!from) { node(target).disconnectInput(slot); continue; }
        const [source, output] = [from.slice(0, from.lastIndexOf('.')), from.slice(from.lastIndexOf('.') + 1)];
        node(source).connect(node(source).outputs.findIndex(each => each.name === output), node(target), slot);
    }
    for (const [key, widgets] of Object.entries(values))
        for (const [name, value] of Object.entries(widgets)) {
            const widget = node(key).widgets.find(each => each.name === name);
            widget.value = value;
            widget.callback?.(value);
        }
    return Object.fromEntries(Object.entries(nodes).map(([key, each]) => [key, each.id]));
}"""
PLACE = """([columns, ids, sizes, corner]) => {
    const { canvas, graph } = window.app, shown = columns.flat().map(key => ids[key]);
    graph.groups.slice().forEach(group => graph.remove(group));
    graph.nodes.filter(node => !shown.includes(node.id)).forEach(node => graph.remove(node));
    let left = 0;
    for (const column of columns) {
        let top = 0, width = 0;
        for (const key of column) {
            const node = graph.getNodeById(ids[key]), least = node.computeSize();
            node.setSize(sizes[key] ?? [Math.max(least[0], 380), Math.max(least[1], Math.min(node.size[1], 460))]);
            node.pos = [left, top];
            top += node.size[1] + 70;
            width = Math.max(width, node.size[0]);
        }
        left += width + 80;
    }
    const boxes = shown.map(id => graph.getNodeById(id)).map(node => [...node.pos, ...node.size]);
    const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]));
    canvas.deselectAll();
    canvas.ds.scale = 1;
    canvas.ds.offset[0] = corner[0];
    canvas.ds.offset[1] = corner[1] + 30;
    canvas.setDirty(true, true);
    return [right, bottom + 30];
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
            for path in take_pictures(canvas, nodes):
                print(path.relative_to(ROOT))


def take_pictures(canvas: Canvas, names: Sequence[str]) -> Iterator[Path]:
    """Store the pictures of these nodes."""
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        canvas.load(graph, name)
        yield _take(canvas, SCENES[name], FOLDER / f"{name}.png")


def _take(canvas: Canvas, scene: Scene, path: Path) -> Path:
    page = canvas.page
    ids = page.evaluate(BUILD, [scene.columns, scene.links, scene.values])
    if scene.run:
        page.evaluate(RUN_NODE, str(ids[scene.run]))
        page.wait_for_function(HAS_OUTPUT, arg=ids[scene.run], timeout=RUN_TIMEOUT_MS)
        page.wait_for_timeout(SETTLE_MS)
        page.get_by_text(JOB_MESSAGE).first.wait_for(state="hidden", timeout=RUN_TIMEOUT_MS)
    width, height = page.evaluate(PLACE, [scene.columns, ids, scene.sizes, CORNER])
    page.wait_for_timeout(SETTLE_MS)
    left, top = (edge - PADDING for edge in CORNER)
    clip = {"x": left, "y": top, "width": width + 2 * PADDING, "height": height + 2 * PADDING}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    save_marked(picture, path, scene_mark(scene), optimize=True)
    return path


def prepare(base: Path) -> None:
    """Put what the scenes load into the folders of a server."""
    (base / "models" / "frame_interpolation").mkdir(parents=True, exist_ok=True)
    (base / "models" / "frame_interpolation" / INTERPOLATION).touch()
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

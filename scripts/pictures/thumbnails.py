"""Draw the picture of every shipped workflow for ComfyUI's dialog of templates: workflows/*.jpg.

The portrait is the sample, the waveforms are those of the sample sounds; nothing in the pictures is an output of the model.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.make_samples import draw_pose  # noqa: E402
from scripts.pictures.marks import mark, save_marked  # noqa: E402
from scripts.workflows.graphs import WORKFLOWS  # noqa: E402

SAMPLES = ROOT / "samples"
PORTRAIT = SAMPLES / "sample_portrait.png"
SIDE = 400
BAND = 96  # px, at the bottom, behind the text
TOP = SIDE - BAND  # height of the drawing
BARS = 48
MOUTH = (148, 92, 252, 194)
DARK, PANEL, LINE, WHITE = (24, 26, 31), (46, 49, 57), (120, 126, 138), (240, 242, 245)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Card:
    """Title, what is special about it, its colour, and what draws the upper part."""

    title: str
    line: str
    colour: str
    draw: Callable[[Image.Image, str], None]


def main() -> int:
    for workflow in WORKFLOWS:
        path = ROOT / workflow.picture
        save_marked(draw_card(CARDS[workflow.name]), path, card_mark(workflow.name), quality=85, optimize=True)
        print(path)
    return 0


def card_mark(name: str) -> str:
    """Of what a card is drawn from: its texts, its drawing, and the samples."""
    card = CARDS[name]
    files = [PORTRAIT, *(SAMPLES / f"sample_{sound}" for sound in ("speech.wav", "song.flac", "vocals.flac"))]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return mark(card.title, card.line, card.colour, inspect.getsource(card.draw), *hashes)


def draw_card(card: Card) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), DARK)
    card.draw(picture, card.colour)
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((0, TOP, SIDE, SIDE), fill=(16, 18, 22))
    canvas.rectangle((0, TOP, SIDE, TOP + 4), fill=card.colour)
    canvas.text((16, TOP + 16), card.title, font=ImageFont.load_default(33), fill="white")
    canvas.text((16, TOP + 60), card.line, font=ImageFont.load_default(20), fill=(205, 210, 215))
    return picture


# --- the upper parts


def quick_start(picture: Image.Image, colour: str) -> None:
    """A picture plus a sound, and a button to play."""
    face(picture, (14, 24, 174, 184))
    bars(picture, (214, 40, 386, 168), loudness("speech.wav"), colour)
    canvas = ImageDraw.Draw(picture)
    canvas.text((194, 100), "+", font=ImageFont.load_default(40), fill="white", anchor="mm")
    canvas.rounded_rectangle((130, 212, 270, 288), 38, fill=colour)
    canvas.polygon([(185, 228), (185, 272), (224, 250)], fill="white")


def app(picture: Image.Image, colour: str) -> None:
    """A form with a picture, a sound, lines to fill in, and Run."""
    canvas = ImageDraw.Draw(picture)
    canvas.rounded_rectangle((60, 18, 340, 288), 14, fill=PANEL)
    face(picture, (78, 36, 178, 136))
    bars(picture, (192, 50, 322, 122), loudness("speech.wav")[::3], "#9aa4b2")
    for top in (150, 184):
        canvas.rounded_rectangle((78, top, 322, top + 24), 8, fill=DARK)
        canvas.line((90, top + 12, 90 + 2 * (236 - top), top + 12), fill=LINE, width=4)
    canvas.rounded_rectangle((78, 228, 322, 274), 12, fill=colour)
    canvas.text((200, 251), "Run", font=ImageFont.load_default(28), fill="white", anchor="mm")


def all_nodes(picture: Image.Image, colour: str) -> None:
    boxes = [(16, 30, 96, 80), (16, 110, 96, 160), (16, 190, 96, 240), (134, 50, 234, 130), (134, 160, 234, 260), (272, 80, 384, 220)]
    wires(picture, boxes, ((0, 5), (1, 3), (2, 4), (3, 5), (4, 5)), colour)
    face(picture, (284, 108, 372, 196))


def core_nodes(picture: Image.Image, colour: str) -> None:
    """Grey nodes of others around one of ours."""
    boxes = [(16, 30, 116, 110), (16, 190, 116, 270), (150, 100, 250, 200), (284, 30, 384, 110), (284, 190, 384, 270)]
    wires(picture, boxes, ((0, 2), (1, 2), (2, 3), (2, 4)), "#8a9099")
    ImageDraw.Draw(picture).rounded_rectangle(boxes[2], 10, outline=colour, width=5)
    face(picture, (164, 126, 236, 198))


def quality(picture: Image.Image, colour: str) -> None:
    """The whole picture, and a part of it through a lens."""
    face(picture, (0, 0, SIDE, TOP), crop=(0, 60, 512, 449))
    lens = Image.new("L", (170, 170))
    ImageDraw.Draw(lens).ellipse((0, 0, 169, 169), fill=255)
    picture.paste(portrait().crop((205, 120, 305, 220)).resize((170, 170), Image.Resampling.LANCZOS), (215, 118), lens)
    ImageDraw.Draw(picture).ellipse((215, 118, 385, 288), outline=colour, width=7)


def long_video(picture: Image.Image, colour: str) -> None:
    """Strips of film, one below the other, that go on."""
    canvas = ImageDraw.Draw(picture)
    for row in range(4):
        for column in range(-1, 6):
            left = column * 84 - 42 * (row % 2)
            face(picture, (left, 8 + row * 74, left + 78, 66 + row * 74), crop=(60, 60, 452, 352), shade=1 - 0.2 * row)
        canvas.line((0, 72 + row * 74, SIDE, 72 + row * 74), fill=colour, width=4)


def song(picture: Image.Image, colour: str) -> None:
    """The face over the waveform of the song, with notes."""
    bars(picture, (0, 60, SIDE, 260), loudness("song.flac"), colour)
    face(picture, (110, 40, 290, 220), round_off=True)
    canvas = ImageDraw.Draw(picture)
    for x, y in ((46, 90), (336, 60), (350, 210)):
        canvas.ellipse((x, y, x + 24, y + 18), fill=WHITE)
        canvas.line((x + 22, y + 8, x + 22, y - 44), fill=WHITE, width=5)
        canvas.line((x + 22, y - 44, x + 40, y - 30), fill=WHITE, width=6)


def dialogue(picture: Image.Image, colour: str) -> None:
    """Two faces that look at each other, each with the waveform of its own sound."""
    face(picture, (14, 26, 190, 202), round_off=True)
    face(picture, (210, 26, 386, 202), round_off=True)
    mirrored = picture.crop((210, 26, 386, 202)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.paste(mirrored, (210, 26))
    canvas = ImageDraw.Draw(picture)
    for left, ring in ((14, "#6ea8fe"), (210, colour)):
        canvas.ellipse((left, 26, left + 176, 202), outline=ring, width=6)
    levels = loudness("dialogue.flac")
    bars(picture, (14, 216, 220, 292), levels[: BARS * 6 // 11], "#6ea8fe")
    bars(picture, (224, 216, 386, 292), levels[BARS * 6 // 11 :], colour)


def mix(picture: Image.Image, colour: str) -> None:
    """One waveform becomes two: the voice and the rest."""
    bars(picture, (14, 100, 150, 204), loudness("song.flac")[::3], "#9aa4b2")
    bars(picture, (250, 30, 386, 134), loudness("vocals.flac")[::3], colour)
    bars(picture, (250, 176, 386, 270), np.abs(loudness("song.flac") - loudness("vocals.flac"))[::3] + 0.2, "#5c6470")
    canvas = ImageDraw.Draw(picture)
    for end in (82, 222):
        canvas.line((160, 152, 196, 152, 196, end, 240, end), fill=WHITE, width=5, joint="curve")
        canvas.polygon([(236, end - 9), (236, end + 9), (249, end)], fill=WHITE)


def live(picture: Image.Image, colour: str) -> None:
    """Frames that come one behind the other, and a light that says so."""
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((0, 0, SIDE, TOP), fill=colour)
    for frame in range(6):
        left = 14 + 34 * frame
        face(picture, (left, 70 - 8 * frame, left + 190, 240 + 8 * frame), crop=(80, 60, 432, 449), shade=0.3 + 0.14 * frame)
    canvas.ellipse((338, 20, 380, 62), fill=WHITE)
    canvas.ellipse((345, 27, 373, 55), fill="#d01818")


def pose(picture: Image.Image, colour: str) -> None:
    """The skeleton over the darkened picture."""
    skeleton = draw_pose(0.0).crop((0, 60, 512, 449)).resize((SIDE, TOP), Image.Resampling.LANCZOS)
    face(picture, (0, 0, SIDE, TOP), crop=(0, 60, 512, 449), shade=0.45)
    upper = np.asarray(picture)[:TOP]
    picture.paste(Image.fromarray(np.maximum(upper, np.asarray(skeleton))), (0, 0))


def film(picture: Image.Image, colour: str) -> None:
    """A strip of film on the left, its skeleton on the right."""
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((24, 0, 176, TOP), fill="black")
    for row in range(3):
        face(picture, (48, 8 + 100 * row, 152, 100 + 100 * row), crop=(40 + 20 * row, 60, 440 + 20 * row, 414))
        for hole in range(4):
            for left in (30, 158):
                canvas.rounded_rectangle((left, 10 + 100 * row + 25 * hole, left + 12, 22 + 100 * row + 25 * hole), 3, fill=WHITE)
    skeleton = draw_pose(0.5).crop((60, 80, 452, 500)).resize((180, 193), Image.Resampling.LANCZOS)
    picture.paste(skeleton, (212, 56))
    canvas.polygon([(182, 138), (182, 166), (204, 152)], fill=colour)


def dub(picture: Image.Image, colour: str) -> None:
    """The picture, darkened but around the mouth, with the new voice below it."""
    face(picture, (0, 0, SIDE, TOP), crop=(0, 60, 512, 449), shade=0.4)
    whole = Image.new("RGB", (SIDE, TOP))
    face(whole, (0, 0, SIDE, TOP), crop=(0, 60, 512, 449))
    hole = Image.new("L", (SIDE, TOP))
    ImageDraw.Draw(hole).ellipse(MOUTH, fill=255)
    picture.paste(whole, (0, 0), hole)
    ImageDraw.Draw(picture).ellipse(MOUTH, outline=colour, width=5)
    bars(picture, (20, 232, 380, 296), loudness("speech.wav"), colour)


def two_pass(picture: Image.Image, colour: str) -> None:
    """Large pixels on the left, none on the right."""
    face(picture, (0, 0, SIDE, TOP), crop=(0, 60, 512, 449))
    small = picture.crop((0, 0, SIDE, TOP)).resize((SIDE // 10, TOP // 10)).resize((SIDE, TOP), Image.Resampling.NEAREST)
    picture.paste(small.crop((0, 0, SIDE // 2, TOP)), (0, 0))
    ImageDraw.Draw(picture).line((SIDE // 2, 0, SIDE // 2, TOP), fill=colour, width=5)


def several_gpus(picture: Image.Image, colour: str) -> None:
    """A video in four slices, each above the chip that makes it."""
    canvas, width = ImageDraw.Draw(picture), 84
    for index in range(4):
        left = 20 + 92 * index
        face(picture, (left, 20, left + width, 180), crop=(40 + 108 * index, 60, 148 + 108 * index, 266))
        canvas.line((left + width // 2, 184, left + width // 2, 212), fill=colour, width=5)
        for pin in range(4):
            canvas.rectangle((left + 14 + 16 * pin, 206, left + 20 + 16 * pin, 290), fill=LINE)
        canvas.rounded_rectangle((left + 4, 214, left + width - 4, 282), 8, fill=PANEL, outline=colour, width=4)
        canvas.text((left + width // 2, 248), "GPU", font=ImageFont.load_default(24), fill=WHITE, anchor="mm")


CARDS = {
    "wan_s2v_quick_start": Card("Talking photo", "picture + sound = video", "#5aa0d0", quick_start),
    "wan_s2v_app": Card("Lip sync app", "a form, no nodes", "#2f7de1", app),
    "wan_s2v_all_nodes": Card("All nodes", "to change what is inside", "#c9a23c", all_nodes),
    "wan_s2v_quality": Card("Top quality", "the reference's settings", "#9a8ad0", quality),
    "wan_s2v_long_video": Card("Long video", "any length, survives a crash", "#60b080", long_video),
    "wan_s2v_dialogue": Card("Two people", "a sound for each of them", "#f2a65a", dialogue),
    "wan_s2v_live": Card("Live", "25 fps, plays while it is made", "#b03434", live),
    "wan_s2v_song": Card("Lip sync a song", "the vocals move the mouth", "#d080c0", song),
    "wan_s2v_mix": Card("Song, full mix", "the voice taken out of it", "#e06a8a", mix),
    "wan_s2v_pose": Card("Pose video", "a skeleton moves the body", "#d06a6a", pose),
    "wan_s2v_filmed_pose": Card("Pose from film", "a filmed person moves it", "#e0a030", film),
    "wan_s2v_dub": Card("Dub a video", "a new voice for a finished one", "#e08050", dub),
    "wan_s2v_two_pass": Card("Upscaled", "24 fps and twice the size", "#50b0b0", two_pass),
    "wan_s2v_core_nodes": Card("Core nodes", "ComfyUI's own around it", "#a0c060", core_nodes),
    "wan_s2v_several_gpus": Card("Multi GPU", "all cards on one video", "#76b900", several_gpus),
}


# --- what they are made of


def portrait() -> Image.Image:
    return Image.open(PORTRAIT).convert("RGB")


def face(picture: Image.Image, box: Box, *, crop: Box = (0, 0, 512, 512), shade: float = 1.0, round_off: bool = False) -> None:
    """Paste a part of the portrait, darker or as a disc."""
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    part = portrait().crop(crop).resize(size, Image.Resampling.LANCZOS).point(lambda value: int(value * shade))
    disc = Image.new("L", size, 0 if round_off else 255)
    if round_off:
        ImageDraw.Draw(disc).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=255)
    picture.paste(part, (left, top), disc)


def bars(picture: Image.Image, box: Box, levels: Sequence[float] | NDArray[np.float64], colour: str) -> None:
    """The loudness of a sound."""
    left, top, right, bottom = box
    canvas, step, middle = ImageDraw.Draw(picture), (right - left) / len(levels), (top + bottom) / 2
    for index, level in enumerate(levels):
        half = 2 + (bottom - top - 4) / 2 * level
        x = left + index * step
        canvas.rounded_rectangle((x + 1, middle - half, x + max(step - 1, 2), middle + half), 2, fill=colour)


def wires(picture: Image.Image, boxes: Sequence[Box], links: Sequence[tuple[int, int]], colour: str) -> None:
    """Nodes, and wires from the right of one to the left of another."""
    canvas = ImageDraw.Draw(picture)
    for start, end in links:
        x, y = boxes[start][2], (boxes[start][1] + boxes[start][3]) // 2
        to_x, to_y = boxes[end][0], (boxes[end][1] + boxes[end][3]) // 2
        curve = [(x + (to_x - x) * t / 20, y + (to_y - y) * (3 * t**2 / 400 - 2 * t**3 / 8000)) for t in range(21)]
        canvas.line(curve, fill=colour, width=4, joint="curve")
    for left, top, right, bottom in boxes:
        canvas.rounded_rectangle((left, top, right, bottom), 10, fill=PANEL)
        canvas.rounded_rectangle((left, top, right, top + 16), 8, fill=LINE)
        for row in range(top + 28, bottom - 8, 16):
            canvas.line((left + 10, row, right - 10, row), fill=DARK, width=6)


def loudness(sound: str) -> NDArray[np.float64]:
    """The level of a sample sound in as many parts as there are bars, the loudest 1."""
    with av.open(SAMPLES / f"sample_{sound}") as container:
        wave = np.concatenate([frame.to_ndarray().astype(np.float64).ravel() for frame in container.decode(audio=0)])
    levels = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(wave, BARS)])
    return levels / levels.max()


if __name__ == "__main__":
    sys.exit(main())

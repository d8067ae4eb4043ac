"""Draw the picture of every shipped workflow for ComfyUI's dialog of templates: workflows/*.jpg.

The portrait is the sample, the waveform that of the sample sound; nothing in the pictures is an output of the model.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.make_samples import draw_pose  # noqa: E402
from scripts.pictures.marks import mark, save_marked  # noqa: E402

SAMPLES = ROOT / "samples"
PORTRAIT = SAMPLES / "sample_portrait.png"
SIDE = 400
BAND = 132  # px, at the bottom, behind the text
BARS = 64
CARDS = {  # workflow -> title, what is special about it, colour, sound
    "wan_s2v_quick_start": ("Quick start", "picture + speech = video", "#5aa0d0", "sample_speech.wav"),
    "wan_s2v_fast": ("Fast", "4 steps with a LoRA", "#e0a030", "sample_speech.wav"),
    "wan_s2v_quality": ("Quality", "1024x704, reference settings", "#9a8ad0", "sample_speech.wav"),
    "wan_s2v_long_video": ("Long video", "any length, goes on after a stop", "#60b080", "sample_speech.wav"),
    "wan_s2v_pose": ("Pose", "a pose video moves the body", "#d06a6a", "sample_speech.wav"),
    "wan_s2v_song": ("Song", "the vocals move the mouth", "#d080c0", "sample_song.flac"),
    "wan_s2v_two_pass": ("Two passes", "then 24 fps and twice the size", "#50b0b0", "sample_speech.wav"),
    "wan_s2v_core_nodes": ("Core nodes", "ComfyUI's own loaders and savers", "#a0a0a0", "sample_speech.wav"),
}


def main() -> int:
    for name, card in CARDS.items():
        path = ROOT / "workflows" / f"{name}.jpg"
        save_marked(draw_card(name, *card), path, card_mark(name), quality=82, optimize=True)
        print(path)
    return 0


def card_mark(name: str) -> str:
    """Of what a card is drawn from: its texts, the portrait and the sound."""
    files = (PORTRAIT, SAMPLES / CARDS[name][-1])
    return mark(CARDS[name], *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))


def draw_card(name: str, title: str, line: str, colour: str, sound: str) -> Image.Image:
    picture = Image.open(PORTRAIT).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if name == "wan_s2v_pose":
        skeleton = draw_pose(0.0).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture = Image.fromarray(np.maximum(np.asarray(picture) // 2, np.asarray(skeleton)))
    if name == "wan_s2v_two_pass":
        small = picture.resize((SIDE // 4, SIDE // 4)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        picture.paste(small.crop((0, 0, SIDE // 2, SIDE)), (0, 0))
    canvas = ImageDraw.Draw(picture, "RGBA")
    canvas.rectangle((0, SIDE - BAND, SIDE, SIDE), fill=(16, 18, 22, 225))
    draw_bars(canvas, loudness(SAMPLES / sound), colour, clips=3 if name == "wan_s2v_long_video" else 1)
    canvas.text((16, SIDE - 82), title, font=ImageFont.load_default(34), fill="white")
    canvas.text((16, SIDE - 36), line, font=ImageFont.load_default(20), fill=(205, 210, 215))
    return picture


def draw_bars(canvas: ImageDraw.ImageDraw, levels: Sequence[float], colour: str, clips: int) -> None:
    """The loudness as bars on the upper edge of the band, with gaps between clips."""
    step = SIDE / len(levels)
    for index, level in enumerate(levels):
        if clips > 1 and index % (len(levels) // clips) == 0:
            continue
        half = 2 + 16 * level
        middle = SIDE - BAND + 22
        canvas.rounded_rectangle((index * step + 1, middle - half, (index + 1) * step - 1, middle + half), 2, fill=colour)


def loudness(path: Path) -> NDArray[np.float64]:
    """The level of a sound in as many parts as there are bars, the loudest 1."""
    with av.open(path) as container:
        wave = np.concatenate([frame.to_ndarray().astype(np.float64).ravel() for frame in container.decode(audio=0)])
    levels = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(wave, BARS)])
    return levels / levels.max()


if __name__ == "__main__":
    sys.exit(main())

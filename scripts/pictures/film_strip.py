"""Draw a video as one picture: a frame of every second over the waveform of its sound.

    python scripts/pictures/film_strip.py video.mp4 docs/images/demo.jpg --title "..."

It needs what ComfyUI brings. docs/images/demo.jpg is made from the video of scripts/demo.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAME_PX = 128  # side of a frame in the strip
WAVE_PX = 64
TITLE_PX = 32
BACKGROUND, FOREGROUND, WAVE = "#16181d", "#e6e6e6", "#5b9bff"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path, help="PNG or JPEG to write")
    parser.add_argument("--title", default="", help="a line above the frames")
    options = parser.parse_args(arguments)
    film_strip(read_frames(options.video), read_sound(options.video), options.title).save(options.picture, quality=88)
    return 0


def read_frames(video: Path) -> list[Image.Image]:
    """The first frame of every second, with equal width and height."""
    with av.open(str(video)) as container:
        fps = float(container.streams.video[0].average_rate)
        frames = [frame.to_image() for number, frame in enumerate(container.decode(video=0)) if number % round(fps) == 0]
    return [frame.resize((FRAME_PX, FRAME_PX)) for frame in frames]


def read_sound(video: Path) -> np.ndarray:
    """Samples of the first channel, from -1 to 1."""
    with av.open(str(video)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono")
        return np.concatenate([part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)])


def film_strip(frames: list[Image.Image], sound: np.ndarray, title: str) -> Image.Image:
    strip = Image.new("RGB", (FRAME_PX * len(frames), TITLE_PX + FRAME_PX + WAVE_PX), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    draw.text((8, TITLE_PX // 2), title, FOREGROUND, ImageFont.load_default(16), anchor="lm")
    for second, frame in enumerate(frames):
        strip.paste(frame, (FRAME_PX * second, TITLE_PX))
        draw.text((FRAME_PX * second + 4, strip.height - 2), f"{second} s", FOREGROUND, ImageFont.load_default(12), anchor="lb")
    peaks = [np.abs(part).max(initial=0.0) for part in np.array_split(sound, strip.width)]
    middle, scale = strip.height - WAVE_PX / 2, (WAVE_PX / 2 - 2) / max(*peaks, 1e-6)
    for x, peak in enumerate(peaks):
        draw.line((x, middle - peak * scale, x, middle + peak * scale), WAVE)
    return strip


if __name__ == "__main__":
    sys.exit(main())

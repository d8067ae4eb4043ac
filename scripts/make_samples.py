"""Make song, vocals, pose video, film with its mask, and two people who talk, all synthetic: make_samples.py [FOLDER]

The song is a hummed melody (a pulse through the formants of vowels) over plucked chords; the vocals are that voice alone. The pose
video is a drawn upper body in the colours of OpenPose that nods and sways. The film is the sample portrait, swaying as if it was filmed;
its mask is the first picture, transparent where the mouth and the chin may change.
The two people are the sample portrait and its mirror image. They share the sample speech; the second one's voice is lower.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
RATE_HZ = 24_000
BEAT_S = 0.5
MELODY = ((392, "a"), (440, "o"), (494, "e"), (440, "a"), (392, "i"), (330, "o"), (349, "a"), (330, "e"), (294, "o"), (262, "a"))  # Hz
FORMANTS = {  # Hz of the first three, for a high voice
    "a": (850, 1250, 2900),
    "e": (530, 2100, 2850),
    "i": (310, 2750, 3300),
    "o": (520, 950, 2850),
}
BANDWIDTHS = (90, 120, 200)  # Hz
CHORDS = ((262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294), (262, 330, 392))  # Hz, two beats each
POSE_FPS, POSE_SIZE = 25, 512
FILM_FPS, FILM_SIZE, FILM_S, FILM_CROP_PX = 24, 384, 3.0, 24
SPEAKERS_CUT_S, LOWER_VOICE = 6.45, 0.84  # where the second one takes over; how much lower and slower
TWO_PEOPLE_SIZE = (832, 416)
FILM_MOUTH = (143, 126, 241, 222)  # px: left, top, right, bottom of an ellipse around all places of mouth and chin
BONES = (  # from, to, colour
    ("neck", "nose", (0, 0, 255)),
    ("nose", "right eye", (85, 0, 255)),
    ("right eye", "right ear", (170, 0, 255)),
    ("nose", "left eye", (255, 0, 255)),
    ("left eye", "left ear", (255, 0, 170)),
    ("neck", "right shoulder", (255, 0, 0)),
    ("right shoulder", "right elbow", (255, 170, 0)),
    ("neck", "left shoulder", (255, 85, 0)),
    ("left shoulder", "left elbow", (170, 255, 0)),
)

Samples = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLES, help="where to write them (default: samples)")
    folder = parser.parse_args().folder
    vocals = np.concatenate([sing(pitch, vowel) for pitch, vowel in MELODY])
    chords = np.concatenate([pluck(chord) for chord in CHORDS])
    write_sound(folder / "sample_vocals.flac", 0.6 * vocals)
    write_sound(folder / "sample_song.flac", 0.45 * vocals + 0.3 * chords)
    pose_times = np.arange(round(len(MELODY) * BEAT_S * POSE_FPS)) / POSE_FPS
    write_video(folder / "sample_pose.mp4", map(draw_pose, pose_times), POSE_FPS, POSE_SIZE)
    portrait = Image.open(SAMPLES / "sample_portrait.png").convert("RGB")
    write_sound(folder / "sample_dialogue.flac", talk_in_turn(SAMPLES / "sample_speech.wav"))
    two_people(portrait).save(folder / "sample_two_people.jpg", quality=90)
    film_times = np.arange(round(FILM_S * FILM_FPS)) / FILM_FPS
    write_video(folder / "sample_film.mp4", (film_frame(portrait, time) for time in film_times), FILM_FPS, FILM_SIZE)
    film_mask(portrait).save(folder / "sample_film_mask.png", optimize=True)


def sing(pitch_hz: float, vowel: str) -> Samples:
    """One beat of a vowel: harmonics of a gently swinging pitch, as loud as the formants let them through."""
    times = np.arange(round(BEAT_S * RATE_HZ)) / RATE_HZ
    phase = 2 * math.pi * pitch_hz * (times + 0.004 / 5.5 * np.sin(2 * math.pi * 5.5 * times))
    wave = np.zeros_like(times)
    for number in range(1, int(5000 / pitch_hz)):
        wave += formant_gain(number * pitch_hz, FORMANTS[vowel]) / number * np.sin(number * phase)
    rise_and_fall = np.minimum(1, np.minimum(times / 0.06, (BEAT_S - times) / 0.12))
    return wave / np.abs(wave).max() * rise_and_fall


def formant_gain(frequency_hz: float, formants: tuple[int, ...]) -> float:
    return sum(1 / (1 + ((frequency_hz - centre) / width) ** 2) for centre, width in zip(formants, BANDWIDTHS, strict=True)) + 0.02


def pluck(chord: tuple[int, ...]) -> Samples:
    """Two beats of a chord that dies away."""
    times = np.arange(round(2 * BEAT_S * RATE_HZ)) / RATE_HZ
    decay = np.exp(-3 * times) * np.minimum(1, times / 0.005)
    return sum(np.sin(2 * math.pi * pitch * times) + 0.3 * np.sin(4 * math.pi * pitch * times) for pitch in chord) * decay / 4


def talk_in_turn(path: Path) -> Samples:
    """The sample speech for two, at RATE_HZ: up to a pause, and the rest in a lower voice."""
    with av.open(path) as container:
        rate_hz = container.streams.audio[0].rate
        speech = np.concatenate([frame.to_ndarray().astype(np.float64).ravel() / 32768 for frame in container.decode(audio=0)])
    cut = round(SPEAKERS_CUT_S * rate_hz)
    return np.concatenate([resampled(speech[:cut], rate_hz / RATE_HZ), resampled(speech[cut:], LOWER_VOICE * rate_hz / RATE_HZ)])


def resampled(wave: Samples, step: float) -> Samples:
    """The wave at every `step`-th of its samples, linear in between."""
    return np.interp(np.arange(0, len(wave) - 1, step), np.arange(len(wave)), wave)


def two_people(portrait: Image.Image) -> Image.Image:
    """The portrait on the left, its mirror image on the right."""
    picture = Image.new("RGB", (2 * portrait.width, portrait.height))
    picture.paste(portrait, (0, 0))
    picture.paste(portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (portrait.width, 0))
    return picture.resize(TWO_PEOPLE_SIZE, Image.Resampling.LANCZOS)


def write_sound(path: Path, wave: Samples) -> None:
    pcm = (np.clip(wave, -1, 1) * 32767).astype(np.int16)[None]
    with av.open(path, "w") as container:
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_video(path: Path, pictures: Iterable[Image.Image], fps: int, size: int) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "24"})
        stream.width = stream.height = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, fps)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def film_frame(portrait: Image.Image, time_s: float) -> Image.Image:
    """The portrait at a time: it leans from side to side every 3 s and nods twice as fast, and its edge is never seen."""
    lean, nod = math.sin(2 * math.pi * time_s / FILM_S), math.sin(4 * math.pi * time_s / FILM_S)
    centre = (portrait.width / 2, portrait.height)
    moved = portrait.rotate(2 * lean, Image.Resampling.BICUBIC, center=centre, translate=(5 * lean, 4 * nod))
    inside = (FILM_CROP_PX, FILM_CROP_PX, portrait.width - FILM_CROP_PX, portrait.height - FILM_CROP_PX)
    return moved.crop(inside).resize((FILM_SIZE, FILM_SIZE), Image.Resampling.LANCZOS)


def film_mask(portrait: Image.Image) -> Image.Image:
    """The first picture of the film with a hole where it may change, as ComfyUI's mask editor stores one."""
    picture, alpha = film_frame(portrait, 0.0), Image.new("L", (FILM_SIZE, FILM_SIZE), 255)
    ImageDraw.Draw(alpha).ellipse(FILM_MOUTH, fill=0)
    picture.putalpha(alpha)
    return picture


def draw_pose(time_s: float) -> Image.Image:
    """The upper body at a time; it sways every 4 s and nods every second."""
    picture = Image.new("RGB", (POSE_SIZE, POSE_SIZE))
    canvas, joints = ImageDraw.Draw(picture), place_joints(time_s)
    for start, end, colour in BONES:
        canvas.line([joints[start], joints[end]], fill=tuple(value * 6 // 10 for value in colour), width=10)
    for _, end, colour in BONES:
        x, y = joints[end]
        canvas.ellipse((x - 7, y - 7, x + 7, y + 7), fill=colour)
    return picture


def place_joints(time_s: float) -> dict[str, tuple[float, float]]:
    sway, nod, lift = 18 * math.sin(math.pi * time_s / 2), 8 * math.sin(2 * math.pi * time_s), 12 * math.sin(math.pi * time_s)
    middle, head = 256 + sway / 2, 256 + sway
    return {  # of the sample portrait
        "neck": (middle, 300),
        "nose": (head, 190 + nod),
        "right eye": (head - 34, 160 + nod),
        "left eye": (head + 34, 160 + nod),
        "right ear": (head - 78, 175 + nod / 2),
        "left ear": (head + 78, 175 + nod / 2),
        "right shoulder": (middle - 125, 335 + lift / 3),
        "left shoulder": (middle + 125, 335 - lift / 3),
        "right elbow": (middle - 165, 470 + lift),
        "left elbow": (middle + 165, 470 - lift),
    }


if __name__ == "__main__":
    main()

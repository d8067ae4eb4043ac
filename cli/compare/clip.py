"""A short clip of the sample picture and the sample speech, made as `predict` makes one, and read back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..comfyui.client import ComfyClient
from ..doctor.finding import OK, Finding
from ..predict import say
from ..predict.graph import FILE_INPUTS, PREPARE, SAMPLER, Request, choose_files, inputs_of, quick_start, require_nodes
from ..predict.job import make_video
from ..predict.options import PICTURE, SOUND
from .looks import Clip, judge_looks

try:
    from ...wan_s2v_model.reports.sync_offset import OffsetMeter
    from ...wan_s2v_model.reports.sync_tracks import ENVELOPE_HZ, GRID, PictureReader, read_sound
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.reports.sync_offset import OffsetMeter
    from wan_s2v_model.reports.sync_tracks import ENVELOPE_HZ, GRID, PictureReader, read_sound

SEED = 42


def choose_names(object_info: Mapping[str, Any], wanted: Mapping[str, str | None]) -> dict[str, str]:
    """The files by part, as `predict` chooses them.

    Raises:
        PromptError: with every file that is missing.
    """
    prompt = quick_start()
    require_nodes(prompt, object_info)
    choose_files(prompt, object_info, {part: name for part, name in wanted.items() if name})
    return {part: inputs_of(prompt, FILE_INPUTS[part][0])[FILE_INPUTS[part][1]] for part in wanted}


def make_clip(client: ComfyClient, options: argparse.Namespace, names: Mapping[str, str], video: Path) -> tuple[Clip, float]:
    """Make the clip on the server and read it; also the seconds that making took.

    Raises:
        PromptError, ComfyError: as `predict`. ValueError: if the video cannot be read.
    """
    size = {"size": "custom", "size.width": options.side, "size.height": options.side}
    inputs = {PREPARE: size, SAMPLER: {"steps": options.steps, "seed": SEED}, "WanS2VAudioEncode": {"duration": options.seconds}}
    made = make_video(client, Request(image=PICTURE, audio=SOUND, files=names, inputs=inputs), say)
    client.download(made.file, video)
    return read_clip(video, PICTURE), made.seconds


def read_clip(video: Path, picture: Path) -> Clip:
    """What `judge_looks` needs of a video file and of the picture that it was made of."""
    sound, reader = read_sound(video, lambda: None), PictureReader(video)
    meter = None if sound is None else OffsetMeter(sound.loudness, ENVELOPE_HZ, float(1 / reader.facts.fps), sound.loudness_start_s)
    brightness = []
    for time_s, cells in reader.frames():
        brightness.append(cells)
        if meter is not None:
            meter.add(time_s, cells)
    return Clip(np.array(brightness), reference_cells(picture), None if meter is None else meter.result())


def reference_cells(picture: Path) -> np.ndarray:
    """Brightness [GRID * GRID] of the square in the middle of a picture, which is what a square video shows."""
    image = Image.open(picture).convert("L")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short)).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(square, dtype=np.float32).ravel()


def judge_clip(clip: Clip, seconds: float) -> Iterator[Finding]:
    """The verdicts, and how long it took."""
    yield from judge_looks(clip)
    yield Finding(OK, "Time of clip", f"{len(clip.brightness)} frames in {seconds:.0f} s, with loading all models")

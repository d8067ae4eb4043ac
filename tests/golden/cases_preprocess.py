"""Kind `preprocess`: picture sizes, black bars and the pose pictures that are picked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ...wan_s2v_model.conditioning import picture
from ...wan_s2v_model.conditioning.pose import PoseImages, pose_slots
from ...wan_s2v_model.conditioning.timeline import Timeline
from .case import Row, compare_column, failure

FPS_TOLERANCE = 1e-6
Line = dict[str, Any]


def replay_tables(root: Path, path: Path) -> Iterator[Row]:
    name = path.relative_to(root).as_posix()
    tables = json.loads(path.read_text())
    for table, lines in tables.items():
        if table not in TABLES:
            yield failure(name, table, "unknown table")
            continue
        compute, given = TABLES[table]
        yield from _compare_table(name, table, [(line, compute(line)) for line in lines], given)


def _compare_table(name: str, table: str, lines: list[tuple[Line, Line]], given: tuple[str, ...]) -> Iterator[Row]:
    columns = {column: None for theirs, _ in lines for column in theirs if column not in given}
    for column in columns:
        if any(column not in ours for _, ours in lines):
            yield failure(name, f"{table}.{column}", "unknown column")
            continue
        pairs = {}
        for number, (theirs, ours) in enumerate(lines):
            if column in theirs:
                pairs[f"line {number}, " + ", ".join(f"{key} {theirs[key]}" for key in given)] = ours[column], theirs[column]
        yield compare_column(name, f"{table}.{column}", pairs, FPS_TOLERANCE if column == "effective_fps" else 0.0)


def _size(line: Line) -> Line:
    size = picture.size_within_area(*line["image_hw"], line["max_area"])
    resized = picture._scaled_size(*line["image_hw"], *size, False)
    white = picture.fit_image(torch.ones(*line["image_hw"], 3), *size, cover=False)[..., 0] > 0
    pad = [int((~white.any(dim=axis)).sum()) for axis in (1, 0)]  # black rows, black columns
    crop = [max(0, whole - part) for whole, part in zip(resized, size, strict=True)]
    return {"out_hw": size, "resized_hw": resized, "black_pad_hw": pad, "crop_hw": crop}


def _pose_sampling(line: Line) -> Line:
    wanted = line["wanted"]
    timeline = Timeline("official", wanted, num_clips=1, num_frames=wanted, num_audio_frames=wanted, free_start=True)
    pose = PoseImages(torch.empty(line["total_frames"], 1, 1, 3), line["fps"])
    picked = [frame for frame in pose_slots(timeline, 0, pose) if frame is not None]
    interval = picked[1] - picked[0] if len(picked) > 1 else max(1, round(line["fps"] / 16))
    return {
        "interval": interval,
        "got": len(picked),
        "first5": picked[:5],
        "last": picked[-1],
        "effective_fps": line["fps"] / interval,
    }


TABLES: dict[str, tuple[Callable[[Line], Line], tuple[str, ...]]] = {
    "sizes": (_size, ("image_hw", "max_area")),
    "pose_sampling": (_pose_sampling, ("fps", "total_frames", "wanted")),
}

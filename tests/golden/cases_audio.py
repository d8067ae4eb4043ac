"""Kind `audio`: waveform -> wav2vec2 -> features at 30 Hz -> slots at 16 fps."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ...wan_s2v_model.audio import features
from ...wan_s2v_model.checkpoints.wav2vec2 import load_wav2vec2
from ...wan_s2v_model.conditioning.timeline import Timeline, plan_timeline
from ...wan_s2v_model.constants import SAMPLE_RATE_HZ
from ...wan_s2v_model.media.sound import to_mono_16khz
from .case import EXACT, Case, Measured, Row, compare_column, failure

FEATURE_TOLERANCE = 5e-4
WAVE_TOLERANCE = 1e-5
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
COUNTS = ("wav2vec_frames", "frames_30fps", "seconds")
COUNTS_PER_CLIP_LENGTH = ("clips", "zero_slots", "first_zero_slot")


def replay(case: Case) -> Iterator[Row]:
    rate = int(case.tensors["meta.sr_T_M"][0]) if "meta.sr_T_M" in case.tensors else case.setting("sample_rate")
    own = to_mono_16khz(case.input("wave_i16").float() / 32768, rate)
    stored = case.optional_input("wave_16k_mono")
    if stored is not None:
        yield _resampler_row(case.name, own, stored)
    waveform = own if stored is None else stored
    normalised = features.normalise(waveform)
    hidden = features.hidden_states(load_encoder(_wav2vec_folder(case)), normalised)
    rows = features.resample_rows(hidden)
    measured = {
        "input_values": Measured(normalised, WAVE_TOLERANCE),
        "meta.sr_T_M": Measured(torch.tensor([rate, hidden.shape[1], rows.shape[1]]), EXACT),
        **_per_layer("hidden_states", hidden),
        **_per_layer("feat_30fps", rows),
        **_buckets(case, waveform.shape[0], rows),
    }
    yield from case.compare(measured)


def _resampler_row(case: str, own: Tensor, stored: Tensor) -> Row:
    """The reference resampled with soxr; our resampler need not agree, so that its difference is only shown."""
    length = min(own.shape[0], stored.shape[0])
    error = (own[:length] - stored[:length]).abs().max().item()
    return Row(case, "wave_16k_mono", error, None, f"our resampler against soxr; {own.shape[0]} and {stored.shape[0]} samples")


def _per_layer(name: str, values: Tensor) -> dict[str, Measured]:
    """All layers under one name, or each under its own."""
    measured = {f"{name}.{layer}": Measured(value, FEATURE_TOLERANCE) for layer, value in enumerate(values)}
    return {name: Measured(values, FEATURE_TOLERANCE), **measured}


def _buckets(case: Case, num_samples: int, rows: Tensor) -> dict[str, Measured]:
    """Slots of all clips, for every clip length that the case stores."""
    lengths = {int(match[1]) for match in (re.match(r"bucket(\d+)\.", name) for name in case.tensors) if match}
    measured = {}
    for length in lengths:
        slots = _slots(_timeline(num_samples, length))
        picked = features.gather_frames(features.pick_frames(rows), slots)[0]
        picked = picked.permute(2, 0, 1)  # [25, C, slots] -> [slots, 25, C]
        index = [-1 if frame is None else features.row_of_frame(frame) for frame in slots]
        measured[f"bucket{length}.idx30"] = Measured(torch.tensor(index), EXACT)
        measured[f"bucket{length}.feat"] = Measured(picked, FEATURE_TOLERANCE)
    return measured


def _timeline(num_samples: int, frames_per_clip: int) -> Timeline:
    return plan_timeline(num_samples, SAMPLE_RATE_HZ, num_samples, sync_mode="official", frames_per_clip=frames_per_clip)


def _slots(timeline: Timeline) -> list[int | None]:
    return [frame for clip in range(timeline.num_clips) for frame in timeline.audio_frames(clip)]


def _wav2vec_folder(case: Case) -> Path:
    if "wav2vec_dir" in case.metadata:
        return case.path("wav2vec_dir")
    folders = find_wav2vec_folders(case.root)
    if len(folders) != 1:
        raise LookupError(f"the metadata wav2vec_dir is missing, and there are {len(folders)} wav2vec2 folders to choose from")
    return folders[0]


def find_wav2vec_folders(root: Path) -> list[Path]:
    """Folders with a configuration and weights of a wav2vec2 model."""
    folders = (Path(folder) for folder, _, names in os.walk(root, followlinks=True) if "config.json" in names)
    return sorted(folder for folder in folders if any((folder / name).is_file() for name in WEIGHTS))


def weights_file(folder: Path) -> Path:
    """The weights in a wav2vec2 folder."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise LookupError(f"{folder.name} holds none of {', '.join(WEIGHTS)}")


@cache
def load_encoder(folder: Path) -> nn.Module:
    return load_wav2vec2(weights_file(folder))


def replay_frame_counts(root: Path, path: Path) -> Iterator[Row]:
    """Every column of the table of sample counts."""
    name = path.relative_to(root).as_posix()
    table = json.loads(path.read_text())
    columns = {column: None for line in table for column in line if column != "samples"}
    for column in columns:
        lines = {f"{line['samples']} samples": (_count(line["samples"], column), line[column]) for line in table if column in line}
        if any(ours is None for ours, _ in lines.values()):
            yield failure(name, column, "unknown column")
        else:
            yield compare_column(name, column, lines)


def _count(num_samples: int, column: str) -> float | None:
    wav2vec_frames = features.num_wav2vec_frames(num_samples)
    counts = (wav2vec_frames, features.num_audio_rows(wav2vec_frames), num_samples / SAMPLE_RATE_HZ)
    if column in COUNTS:
        return dict(zip(COUNTS, counts, strict=True))[column]
    quantity, _, frames_per_clip = column.rpartition("_")
    if quantity not in COUNTS_PER_CLIP_LENGTH or not frames_per_clip.isdigit():
        return None
    timeline = _timeline(num_samples, int(frames_per_clip))
    slots = _slots(timeline)
    first_zero_slot = slots.index(None) if None in slots else len(slots)
    return dict(zip(COUNTS_PER_CLIP_LENGTH, (timeline.num_clips, slots.count(None), first_zero_slot), strict=True))[quantity]

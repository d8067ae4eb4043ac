"""A long video by the real nodes and the tiny models: memory and open files stay as they are, and the file is exact."""

import os
import sys

import pytest
import torch
from wan_s2v_pack.tests.crash import tiny_run
from wan_s2v_pack.tests.crash.tiny_run import TinyLiveRun, TinyRun, make_models
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.unit.runs.test_finish_hour import (
    ALLOWED_FILES,
    ALLOWED_GROWTH_BYTES,
    EARLY,
    count_and_seconds,
    open_files,
    resident_bytes,
)
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

WHOLE_HOUR = bool(os.environ.get("WAN_S2V_WHOLE_HOUR"))
FRAMES_PER_CLIP, SECONDS = (80, 3599.98) if WHOLE_HOUR else (8, 12.48)  # 720 or 25 clips; the last frame is not quite filled
LIVE_SECONDS = 3599.98 if WHOLE_HOUR else 21.98  # 1,876 or 12 clips of 48 frames
RATE_HZ = 16_000

pytestmark = [pytest.mark.comfy, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


class LongLiveRun(TinyLiveRun):
    """As long as users make them, with the rings emptied as often as theirs."""

    restart_clips = 32 if WHOLE_HOUR else 10


def heard_sound(seconds, fps):
    """Features as the encoder leaves those of a long sound; the encoder itself would take an hour for an hour."""
    num_samples = round(seconds * RATE_HZ)
    features = torch.randn(25, 32, round(seconds * fps) + 8, generator=torch.Generator().manual_seed(0)).half()
    waveform = torch.sin(torch.arange(num_samples) * 0.1)[None] * 0.3
    return pack_module("wan_s2v_model.audio.features").EncodedAudio(features, waveform, RATE_HZ, num_samples, fps=fps)


@pytest.mark.parametrize(("kind", "seconds", "clip"), [(TinyRun, SECONDS, FRAMES_PER_CLIP), (LongLiveRun, LIVE_SECONDS, 48)])
def test_memory_and_files_do_not_grow_and_the_file_is_exact(kind, seconds, clip, bridge, tmp_path, monkeypatch):
    make_models(tmp_path / "models")
    tiny, memory, files, write_clip = kind.load(tmp_path / "models"), [], [], RunStore.write_clip

    def write_and_measure(store, index, **tensors):
        write_clip(store, index, **tensors)
        memory.append(resident_bytes())
        files.append(open_files())

    monkeypatch.setattr(RunStore, "write_clip", write_and_measure)
    monkeypatch.setattr(tiny_run, "FRAMES_PER_CLIP", FRAMES_PER_CLIP)
    path = tiny.render(tmp_path / "output", run_name="long", video_format="mp4 (h264)", heard=heard_sound(seconds, kind.fps), steps=1)
    memory.append(resident_bytes())
    megabytes = [round(value / 1e6) for value in (memory[EARLY - 1], memory[-2], memory[-1])]
    print(f"{len(files)} clips; MB after clip {EARLY}, the last one, saving: {megabytes}; open files: {min(files)} to {max(files)}")
    assert len(files) == -(-(round(seconds * kind.fps) + 3) // clip)
    assert max(memory[EARLY:]) - memory[EARLY - 1] < ALLOWED_GROWTH_BYTES
    assert max(files[-EARLY:]) - min(files[:EARLY]) <= ALLOWED_FILES
    num_frames, picture_s, sound_s = count_and_seconds(path, kind.fps)
    assert num_frames == round(seconds * kind.fps)
    assert picture_s == pytest.approx(num_frames / kind.fps, abs=1e-3)
    assert abs(picture_s - sound_s) < 1 / kind.fps

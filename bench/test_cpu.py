"""What costs CPU time around the model: timeline, sound, run store, video writer. Needs neither GPU nor ComfyUI.

    scripts/test bench/test_cpu.py

Not part of the tests: figures depend on the machine. `--benchmark-autosave` and `--benchmark-compare` compare two commits.
"""

import itertools

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import gather_frames, pick_frames, resample_rows
from wan_s2v_pack.wan_s2v_model.conditioning.pose import PoseImages, pose_slots
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.constants import NUM_AUDIO_LAYERS, SAMPLE_RATE_HZ, VIDEO_FPS, WAV2VEC_HZ
from wan_s2v_pack.wan_s2v_model.media.sound import to_mono_16khz
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS, LIVE_FORMAT
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

HOUR_S, CLIP_S = 3600, 5
FRAMES_PER_CLIP = CLIP_S * VIDEO_FPS
WIDTH, HEIGHT = 832, 480
SOUND_HZ = 44_100
AUDIO_CHANNELS = 1024  # of wav2vec2-large
ROUNDS = 3  # of what takes a second or more


def hour_timeline():
    return plan_timeline(HOUR_S * SOUND_HZ, SOUND_HZ, HOUR_S * SAMPLE_RATE_HZ)


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def frames():
    """[T, H, W, 3] uint8: waves that move, with a little noise, so that a codec has work but is not hopeless."""
    rows, columns = torch.arange(HEIGHT)[:, None, None], torch.arange(WIDTH)[None, :, None]
    phase = torch.tensor([0.0, 2.0, 4.0])
    images = [torch.sin(rows / 23 + time / 5 + phase) * torch.cos(columns / 31 - time / 7 + phase) for time in range(FRAMES_PER_CLIP)]
    pictures = torch.stack(images) * 100 + 128 + 3 * seeded(FRAMES_PER_CLIP, HEIGHT, WIDTH, 1)
    return pictures.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def clip(frames):
    """What the run store keeps of a clip."""
    height, width = HEIGHT // 8, WIDTH // 8
    return {
        "latents": seeded(16, FRAMES_PER_CLIP // 4, height, width),
        "motion_latents": seeded(1, 16, 19, height, width),
        "frames": frames,
    }


# --- timeline


def test_plan_of_an_hour(benchmark):
    timeline = benchmark(hour_timeline)
    assert timeline.num_frames == HOUR_S * VIDEO_FPS


def test_audio_frames_of_all_clips_of_an_hour(benchmark):
    timeline = hour_timeline()
    slots = benchmark(lambda: [timeline.audio_frames(index) for index in range(timeline.num_clips)])
    assert sum(map(len, slots)) >= timeline.num_frames


def test_pose_of_all_clips_of_an_hour(benchmark):
    timeline, pose = hour_timeline(), PoseImages(torch.empty(HOUR_S * 24, 1, 1, 3), 24.0)
    slots = benchmark(lambda: [pose_slots(timeline, index, pose) for index in range(timeline.num_clips)])
    assert slots[-1][-1] == HOUR_S * 24 - 1


# --- sound


def test_resampling_of_a_minute(benchmark):
    sound = seeded(2, 60 * SOUND_HZ)
    assert benchmark(to_mono_16khz, sound, SOUND_HZ).shape == (60 * SAMPLE_RATE_HZ,)


def test_features_of_ten_seconds(benchmark):
    hidden = seeded(NUM_AUDIO_LAYERS, 10 * WAV2VEC_HZ, AUDIO_CHANNELS)
    assert benchmark(lambda: pick_frames(resample_rows(hidden))).shape[-1] == 10 * VIDEO_FPS


def test_slots_of_a_clip(benchmark):
    features = seeded(NUM_AUDIO_LAYERS, AUDIO_CHANNELS, 4 * FRAMES_PER_CLIP)
    slots = hour_timeline().audio_frames(1)
    assert benchmark(gather_frames, features, slots).shape[-1] == FRAMES_PER_CLIP


# --- run store


def test_store_a_clip(benchmark, tmp_path, clip):
    with RunStore.open(tmp_path / "run", {"seed": 1}) as store:
        index = itertools.count()
        benchmark.pedantic(lambda: store.write_clip(next(index), **clip), rounds=ROUNDS, warmup_rounds=1)
        assert store.num_finished == next(index)


def test_read_the_frames_of_a_clip(benchmark, tmp_path, clip):
    with RunStore.open(tmp_path / "run", {"seed": 1}) as store:
        store.write_clip(0, **clip)
        assert torch.equal(benchmark(store.read_frames, 0), clip["frames"])


def test_open_a_run_of_an_hour(benchmark, tmp_path):
    small = {"latents": seeded(16, 1, 2, 2), "motion_latents": None, "frames": torch.zeros(4, 16, 16, 3, dtype=torch.uint8)}
    num_clips = hour_timeline().num_clips
    with RunStore.open(tmp_path / "run", {"seed": 1}) as store:
        for index in range(num_clips):
            store.write_clip(index, **small)

    def reopen():
        with RunStore.open(tmp_path / "run", {"seed": 1}) as store:
            return store.num_finished

    assert benchmark(reopen) == num_clips


# --- video writer


@pytest.mark.parametrize("video_format", [*FORMATS.values(), LIVE_FORMAT], ids=[*FORMATS, "live"])
def test_encode_a_clip(benchmark, tmp_path, frames, video_format):
    path = tmp_path / f"clip.{video_format.container}"
    sound = seeded(2, CLIP_S * SOUND_HZ) * 0.1

    def encode():
        options = {"width": WIDTH, "height": HEIGHT, "fps": VIDEO_FPS, "video_format": video_format, "quality": 18}
        with VideoWriter(path, audio=(sound, SOUND_HZ), **options) as writer:
            writer.write(frames)

    benchmark.pedantic(encode, rounds=ROUNDS, warmup_rounds=1)
    assert path.stat().st_size > 10_000

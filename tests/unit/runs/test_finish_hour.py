"""A long run through the real clip loop, store, video in progress and video file, with stand-ins for the networks."""

import os
import sys
import time

import av
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.finish import finish_run
from wan_s2v_pack.wan_s2v_model.runs.live_video import LiveVideo
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

SECONDS = 3599.98 if os.environ.get("WAN_S2V_WHOLE_HOUR") else 599.98  # 720 or 120 clips; the last frame is not quite filled
FPS = 16
RATE_HZ = 16_000
SIDE = 64  # px
EARLY = 10  # clips
ALLOWED_GROWTH_BYTES = 150 * 2**20
PATIENCE_S = 30
ALLOWED_FILES = 3  # the clip and folder that two threads happen to have open

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def make_plan():
    num_samples = round(SECONDS * RATE_HZ)
    timeline = plan_timeline(num_samples, RATE_HZ, num_samples)
    waveform = torch.sin(torch.arange(num_samples) * 0.1)[None] * 0.3
    return Plan(timeline, SIDE, SIDE, torch.zeros(1, 1, timeline.num_audio_frames), waveform, RATE_HZ, torch.zeros(1, 16, 1, 8, 8))


def decode(latents):
    """[1, 16, F, h, w] -> [4F - 3, H, W, 3], grey."""
    frames = latents[0, 0].repeat_interleave(4, 0)[3:].repeat_interleave(8, 1).repeat_interleave(8, 2)
    return torch.sigmoid(frames)[..., None].expand(-1, -1, -1, 3)


def encode(frames):
    return frames.mean(dim=(0, 3))[None, None, None, ::8, ::8].expand(1, 16, 19, -1, -1).clone()


def count_and_seconds(path, fps=FPS):
    """Decoded frames, and the ends of picture and sound in seconds."""
    num_frames, num_samples = 0, 0
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].codec_context.sample_rate
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                num_frames += 1
                picture_s = float(frame.pts * frame.time_base) + 1 / fps
            else:
                num_samples += frame.samples
    return num_frames, picture_s, num_samples / rate


def test_memory_and_files_do_not_grow_and_the_file_is_exact(tmp_path):
    plan = make_plan()
    num_clips, memory, files = plan.timeline.num_clips, [], []

    def measure(path):
        memory.append(resident_bytes())
        files.append(open_files())

    def sample(clip, conditioning, noise):
        deadline = time.monotonic() + PATIENCE_S
        while len(memory) < clip - 2 and time.monotonic() < deadline:  # sampling takes longer than encoding
            time.sleep(0.001)
        return noise

    with RunStore.open(tmp_path / "run", {}) as store:
        clips = Clips(store, plan, delete_with_handle=False)
        with LiveVideo(clips, 0, measure) as live:
            finish_run(store, plan, 1, sample=sample, encode=encode, decode=decode, on_stored=live.consume)
    with VideoWriter(
        tmp_path / "a.mp4",
        width=SIDE,
        height=SIDE,
        fps=FPS,
        video_format=FORMATS["mp4 (h264)"],
        quality=30,
        audio=(clips.waveform, RATE_HZ),
    ) as writer:
        for frames in clips.frames():
            writer.write(frames)
    memory.append(resident_bytes())
    megabytes = [round(value / 1e6) for value in (memory[EARLY - 1], memory[-2], memory[-1])]
    print(f"{num_clips} clips; MB after clip {EARLY}, the last one, saving: {megabytes}; open files: {min(files)} to {max(files)}")
    assert len(memory) == num_clips + 1
    assert max(memory[EARLY:]) - memory[EARLY - 1] < ALLOWED_GROWTH_BYTES
    assert max(files[-EARLY:]) - min(files[:EARLY]) <= ALLOWED_FILES
    for path in (tmp_path / "a.mp4", live.path):
        num_frames, picture_s, sound_s = count_and_seconds(path)
        assert num_frames == round(SECONDS * FPS)
        assert picture_s == pytest.approx(num_frames / FPS, abs=1e-3)
        assert abs(picture_s - sound_s) < 1 / FPS

"""A long live run through the real loop, store, video in progress and video file, with stand-ins that flash where the sound clicks."""

import os
import sys
import time

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.tests.live_stand_in import CONTEXT, RATE_HZ
from wan_s2v_pack.tests.unit.runs.test_finish_hour import ALLOWED_FILES, ALLOWED_GROWTH_BYTES, EARLY, open_files, resident_bytes
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.finish import LiveNetworks, finish_live, video_in_progress
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
from wan_s2v_pack.wan_s2v_model.sampling.live import LiveSampler, live_sigmas
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import RESTART_CLIPS, LiveJob

WHOLE_HOUR = bool(os.environ.get("WAN_S2V_WHOLE_HOUR"))
SECONDS = 3600 if WHOLE_HOUR else 70  # 1,876 clips, or 37: beyond the first place where the rings are emptied
FPS = 25
SIDE = 32  # px
CLICK_EVERY_S = 1.37
FIRST_CLICK_S = 0.53
CLICK_S = 0.02
PATIENCE_S = 30

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def click_times():
    return np.arange(FIRST_CLICK_S, SECONDS - 0.2, CLICK_EVERY_S)


def make_plan():
    """The model hears 1 in the frames in which a click begins, else 0."""
    num_samples = SECONDS * RATE_HZ
    timeline = plan_timeline(num_samples, RATE_HZ, num_samples, frames_per_clip=48, fps=FPS)
    sound, heard = torch.zeros(1, num_samples), torch.zeros(1, 1, timeline.num_audio_frames)
    for second in click_times():
        start = round(second * RATE_HZ)
        sound[:, start : start + round(CLICK_S * RATE_HZ)] = 0.9
        heard[..., int(second * FPS)] = 1.0
    latents = torch.zeros(1, 16, 1, SIDE // 8, SIDE // 8)
    return Plan(timeline, SIDE, SIDE, heard, sound, RATE_HZ, latents, picture=torch.zeros(SIDE, SIDE, 3))


class Network:
    """Steps that end at latents whose first channels are what the four frames of a latent hear."""

    def clear(self):
        pass

    def set_anchor(self, picture_latent, motion_latents, context):
        pass

    def forward(self, x, step, timestep, first_latent, distance, audio, pose=None, regions=None):
        target = torch.zeros_like(x)
        target[:4] = audio[0, 0].reshape(3, 4).T[:, :, None, None]  # frames 4f + k -> channel k of latent f
        return (x - target) / (timestep / 1000)


class Decoder:
    def __init__(self):
        self._has_begun = False

    def __call__(self, latents):
        frames = latents[0, :4].movedim(1, 0).flatten(0, 1)  # [4, F, h, w] -> [4F, h, w]
        frames = frames.repeat_interleave(8, 1).repeat_interleave(8, 2)[3 * (not self._has_begun) :]
        self._has_begun = True
        return frames.clamp(0, 1)[..., None].expand(-1, -1, -1, 3)


def encode(frames):
    return torch.zeros(1, 16, (len(frames) + 3) // 4, SIDE // 8, SIDE // 8)


def finish(folder, plan):
    """The run; returns memory and open files whenever the video in progress has grown."""
    memory, files = [], []

    def measure(path):
        memory.append(resident_bytes())
        files.append(open_files())

    def wait_for_the_video(block, step, x):  # sampling takes longer than encoding
        deadline = time.monotonic() + PATIENCE_S
        while len(memory) < block - 8 and time.monotonic() < deadline:
            time.sleep(0.001)

    job = LiveJob(plan, 7, restart_clips=RESTART_CLIPS)
    sampler = LiveSampler(Network(), job.told(CONTEXT), live_sigmas(4), wait_for_the_video)
    with RunStore.open(folder, {"frame_rate": FPS}) as store:
        with video_in_progress(store, plan, measure) as live:
            finish_live(store, job, LiveNetworks(sampler, encode, Decoder), live, peak_bytes=lambda: None)
        return Clips(store, plan, delete_with_handle=False), memory, files


def flashes_and_clicks(path):
    """Seconds at which the picture turns bright, and at which the sound begins after silence; number of frames, end of the sound."""
    bright, pts, levels = [], [], []
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].codec_context.sample_rate
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                bright.append(frame.to_ndarray(format="gray").mean() > 128)
                pts.append(float(frame.pts * frame.time_base))
            else:
                levels.append(np.abs(frame.to_ndarray()).max(axis=0))
    loud = np.concatenate(levels) > 0.3
    starts = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    clicks = starts[np.diff(starts, prepend=-rate) > 0.3 * rate] / rate
    rising = np.flatnonzero(np.diff(np.array(bright, int), prepend=0) > 0)
    return np.array(pts)[rising], clicks, len(pts), len(loud) / rate


def test_memory_stays_and_every_flash_is_within_half_a_frame_of_its_click(tmp_path):
    plan = make_plan()
    clips, memory, files = finish(tmp_path / "run", plan)
    path = tmp_path / "a.mp4"
    sound = (clips.waveform, RATE_HZ)
    with VideoWriter(path, width=SIDE, height=SIDE, fps=FPS, video_format=FORMATS["mp4 (h264)"], quality=18, audio=sound) as writer:
        for frames in clips.frames():
            writer.write(frames)
    memory.append(resident_bytes())
    early = 4 * EARLY
    print(f"{plan.timeline.num_clips} clips; MB early, at the end, saving: {[round(memory[at] / 1e6) for at in (early, -2, -1)]}")
    assert max(memory[early:]) - memory[early] < ALLOWED_GROWTH_BYTES
    assert max(files[-early:]) - min(files[:early]) <= ALLOWED_FILES
    expected = click_times()
    for file in (path, clips.folder / "in_progress.mp4"):
        flashes, clicks, num_frames, sound_s = flashes_and_clicks(file)
        assert num_frames == SECONDS * FPS
        assert abs(sound_s - SECONDS) < 1 / FPS
        assert len(flashes) == len(clicks) == len(expected)
        middles = flashes + 0.5 / FPS  # a click is somewhere in the frame that shows it
        assert np.abs(middles - clicks).max() <= 0.5 / FPS + 0.003  # of the file's own clock and the codec's ramp

"""Sound in, sound and picture out: the picture must flash when the sound clicks.

Everything between the two files is real: nodes, clip loop, solver, calls of the decoder, MP4. Only the networks are stand-ins
(`stand_ins/flash.py`).
"""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS

from .graphs import Prompt, add, find, flash_graph, inputs_of
from .sounds import write_wav

FPS = 16
HALF_FRAME_S = 0.5 / FPS
LEAD_S = 3 / FPS  # of the reference
RATE_HZ = 16_000
BURST_S = 0.25
GAP_S = 0.5
FIVE_CLIPS = 72  # frames: 13 + 16 + 16 + 16 + 11
CLIP_BORDERS_S = np.array([13, 29, 45, 61]) / FPS
PLAYED_LATER_S = 0.11  # clicks of the played track, against those of the driving one: no whole number of frames
PLAYED_RATE_HZ = 44_100

# Exact multiples first: of the clips as they come out (13, 29, 77 frames), then of what goes in (16, 32, 80 frames), then neither.
NUM_FRAMES = [13, 29, 77, 16, 32, 80, 10, 24, 70]


def click_times(seconds: float) -> np.ndarray:
    """Middle of each click: every half second, never at the same place within a frame."""
    times = np.arange(0.3, seconds - BURST_S, GAP_S)
    return times + 0.37 / FPS * np.arange(len(times)) % (1 / FPS)


def click_track(seconds: float, rate_hz: int = RATE_HZ, later_s: float = 0.0) -> np.ndarray:
    """Tone bursts with a smooth envelope, so that their centre is well defined at 16 frames per second."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    sound = np.zeros_like(time)
    for centre in click_times(seconds) + later_s:
        inside = np.abs(time - centre) < BURST_S / 2
        sound[inside] += np.cos(np.pi * (time[inside] - centre) / BURST_S) ** 2 * np.sin(2 * np.pi * 1000 * time[inside])
    return 0.8 * sound


def centres(times: np.ndarray, strength: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Centre of gravity around each expected time."""
    found = []
    for time in expected:
        near = np.abs(times - time) < GAP_S / 2
        found.append((times[near] * strength[near]).sum() / strength[near].sum())
    return np.array(found)


def loudness(video) -> tuple[np.ndarray, np.ndarray]:
    """Times and amplitude of the decoded sound in steps of 1 ms."""
    step = video.sample_rate // 1000
    blocks = video.sound[: len(video.sound) // step * step].reshape(-1, step)
    return (np.arange(len(blocks)) + 0.5) * step / video.sample_rate, np.sqrt((blocks**2).mean(axis=1))


def brightness(video) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the time for which each frame is shown, and how bright it is above the dark."""
    level = video.luma.astype(np.float64).mean(axis=(1, 2))
    return video.frame_times + HALF_FRAME_S, np.maximum(level - level.min() - 4, 0)


def click_graph(renderer, num_frames: int, **settings) -> Prompt:
    """The graph of the stand-ins for a sound of that many frames with clicks."""
    name = f"clicks_{num_frames}.wav"
    write_wav(renderer.server.input_directory / name, click_track(num_frames / FPS), RATE_HZ)
    prompt = flash_graph(cfg=1.0, quality=10, **settings)
    inputs_of(prompt, "LoadAudio")["audio"] = name
    return prompt


def leads_in(video, num_frames: int, expected_s: float = 0.0) -> np.ndarray:
    """Seconds by which each flash of the finished file comes before its click; looked for around the expected lead."""
    times = click_times(num_frames / FPS)
    return centres(*loudness(video), times) - centres(*brightness(video), times - expected_s)


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_aligned_flashes_with_the_click(num_frames, renderer):
    video = renderer.render(click_graph(renderer, num_frames, sync_mode="aligned", filename_prefix=f"sync/aligned_{num_frames}"))
    lead = leads_in(video, num_frames)
    assert np.abs(lead).max() < HALF_FRAME_S, lead * 1000


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_official_flashes_three_frames_early(num_frames, renderer):
    video = renderer.render(click_graph(renderer, num_frames, sync_mode="official", filename_prefix=f"sync/official_{num_frames}"))
    lead = leads_in(video, num_frames, LEAD_S)
    assert np.abs(lead - LEAD_S).max() < HALF_FRAME_S, lead * 1000


def check_every_format(renderer, prompt: Prompt, expected_s: float = 0.0) -> None:
    """Save a run of five clips in every format; the frames are sampled once."""
    for name, video_format in FORMATS.items():
        inputs_of(prompt, "WanS2VSaveVideo")["format"] = name
        video = renderer.render(prompt)
        assert (video.video_codec, video.audio_codec) == (video_format.video_codec, video_format.audio_codec)
        assert video.num_frames == FIVE_CLIPS
        assert abs(video.picture_seconds - video.sound_seconds) < 1 / FPS
        lead = leads_in(video, FIVE_CLIPS, expected_s)
        assert np.abs(lead - expected_s).max() < HALF_FRAME_S, (name, lead * 1000)


def test_a_click_lies_across_every_clip_border():
    distances = np.abs(click_times(FIVE_CLIPS / FPS)[:, None] - CLIP_BORDERS_S).min(axis=0)
    assert (distances < BURST_S / 2).all(), distances


def test_every_format_is_in_sync_in_every_clip(renderer):
    check_every_format(renderer, click_graph(renderer, FIVE_CLIPS, sync_mode="aligned", filename_prefix="sync/formats"))


def test_the_picture_follows_the_driving_track_and_the_file_plays_the_other(renderer):
    prompt = click_graph(renderer, FIVE_CLIPS, sync_mode="aligned", filename_prefix="sync/driven")
    encode = inputs_of(prompt, "WanS2VAudioEncode")
    encode["driving_audio"] = encode["audio"]
    played = "clicks_played.wav"
    track = click_track(FIVE_CLIPS / FPS, PLAYED_RATE_HZ, PLAYED_LATER_S)
    write_wav(renderer.server.input_directory / played, track, PLAYED_RATE_HZ)
    encode["audio"] = [add(prompt, "LoadAudio", audio=played), 0]
    check_every_format(renderer, prompt, PLAYED_LATER_S)


def test_a_run_that_was_cancelled_and_continued_is_in_sync_in_every_format(renderer):
    slow = {"steps": 150}  # so that the cancel comes before the last clip
    prompt = click_graph(renderer, FIVE_CLIPS, sync_mode="aligned", run_name="cancelled clicks", filename_prefix="sync/continued", **slow)
    sampler = find(prompt, "WanS2VSampler")
    one_clip = inputs_of(prompt, "WanS2VSampler")["steps"]
    renderer.cancel(prompt, lambda step: step.node == sampler and step.value > one_clip)
    (folder,) = renderer.server.output_directory.rglob("cancelled clicks")
    assert 1 <= len(list(folder.glob("clip_*.safetensors"))) < 5
    check_every_format(renderer, prompt)

"""Sound in, sound and picture out: the picture must flash when the sound clicks.

Everything between the two files is real: nodes, clip loop, solver, calls of the decoder, MP4. Only the networks are stand-ins
(`stand_ins/flash.py`).
"""

from __future__ import annotations

import numpy as np
import pytest

from .graphs import FRAMES_PER_CLIP, flash_graph, inputs_of
from .sounds import write_wav

FPS = 16
HALF_FRAME_S = 0.5 / FPS
LEAD_S = 3 / FPS  # of the reference
RATE_HZ = 16_000
BURST_S = 0.25
GAP_S = 0.5
FIRST_CLIP_FRAMES = FRAMES_PER_CLIP - 3

# Exact multiples first: of the clips as they come out (13, 29, 77 frames), then of what goes in (16, 32, 80 frames), then neither.
NUM_FRAMES = [13, 29, 77, 16, 32, 80, 10, 24, 70]


def click_times(seconds: float) -> np.ndarray:
    """Middle of each click: every half second, never at the same place within a frame."""
    times = np.arange(0.3, seconds - BURST_S, GAP_S)
    return times + 0.37 / FPS * np.arange(len(times)) % (1 / FPS)


def click_track(seconds: float) -> np.ndarray:
    """Tone bursts with a smooth envelope, so that their centre is well defined at 16 frames per second."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = np.zeros_like(time)
    for centre in click_times(seconds):
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


def leads(renderer, num_frames: int, **settings) -> np.ndarray:
    """Seconds by which each flash of the finished file comes before its click."""
    seconds = num_frames / FPS
    name = f"clicks_{num_frames}.wav"
    write_wav(renderer.server.input_directory / name, click_track(seconds), RATE_HZ)
    prompt = flash_graph(cfg=1.0, quality=10, **settings)
    inputs_of(prompt, "LoadAudio")["audio"] = name
    video = renderer.render(prompt)
    clicks = centres(*loudness(video), click_times(seconds))
    return clicks - centres(*brightness(video), click_times(seconds) - (LEAD_S if settings["sync_mode"] == "official" else 0))


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_aligned_flashes_with_the_click(num_frames, renderer):
    lead = leads(renderer, num_frames, sync_mode="aligned", filename_prefix=f"sync/aligned_{num_frames}")
    assert np.abs(lead).max() < HALF_FRAME_S, lead * 1000


@pytest.mark.parametrize("num_frames", NUM_FRAMES)
def test_official_flashes_three_frames_early(num_frames, renderer):
    lead = leads(renderer, num_frames, sync_mode="official", filename_prefix=f"sync/official_{num_frames}")
    assert np.abs(lead - LEAD_S).max() < HALF_FRAME_S, lead * 1000


def test_webm_is_in_sync_too(renderer):
    lead = leads(renderer, 29, sync_mode="aligned", format="webm (vp9)", filename_prefix="sync/webm")
    assert np.abs(lead).max() < HALF_FRAME_S, lead * 1000

"""What Encode Audio does to the sound: the stand-ins' picture is bright where the model hears something, the file plays what is played."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed

from .graphs import EXACT, TWO_CLIPS, Prompt, add, flash_graph, inputs_of, quick_start
from .sounds import write_wav

FPS = 16
RATE_HZ = 16_000
FIRST_CLIP = 13  # frames


def bursts(seconds: float, *spans: tuple[float, float], rate_hz: int = RATE_HZ, level: float = 0.5) -> np.ndarray:
    """A tone between the given seconds, silence elsewhere."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    inside = np.any([(start <= time) & (time < end) for start, end in spans], axis=0)
    return level * inside * np.sin(2 * np.pi * 440 * time)


def flash(renderer, played: np.ndarray, driving: np.ndarray | None = None, driving_rate_hz: int = RATE_HZ, **settings) -> Prompt:
    """The graph of the stand-ins for these sounds; settings are those of Encode Audio."""
    prompt = flash_graph(cfg=1.0, **EXACT)
    write_wav(renderer.server.input_directory / "played.wav", played, RATE_HZ)
    inputs_of(prompt, "LoadAudio")["audio"] = "played.wav"
    inputs = inputs_of(prompt, "WanS2VAudioEncode")
    inputs.update(settings)
    if driving is not None:
        write_wav(renderer.server.input_directory / "driving.wav", driving, driving_rate_hz)
        inputs["driving_audio"] = [add(prompt, "LoadAudio", audio="driving.wav"), 0]
    return prompt


def bright_frames(video) -> np.ndarray:
    level = video.luma.astype(np.float64).mean(axis=(1, 2))
    return np.flatnonzero(level > (level.min() + level.max()) / 2)


def loud_frames(video) -> np.ndarray:
    samples = video.sample_rate // FPS
    frames = video.sound[: len(video.sound) // samples * samples].reshape(-1, samples)
    level = np.sqrt((frames**2).mean(axis=1))
    return np.flatnonzero(level > level.max() / 2)


def about(frames: np.ndarray, *spans: tuple[int, int]) -> bool:
    """Whether these are the frames of the spans, but for one at either end."""
    inner = {frame for first, last in spans for frame in range(first + 1, last - 1)}
    outer = {frame for first, last in spans for frame in range(first - 1, last + 1)}
    return inner <= set(frames.tolist()) <= outer


def log_of(renderer, render) -> tuple[object, str]:
    before = len(renderer.server.log_text())
    return render(), renderer.server.log_text()[before:]


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_the_driving_track_moves_the_picture_and_the_other_one_is_played(rate_hz, renderer):
    played = bursts(2.5, (0.25, 0.75), (2.0, 2.4))
    driving = bursts(2.5, (1.0, 1.5), rate_hz=rate_hz)
    video = renderer.render(flash(renderer, played, driving, rate_hz))
    assert video.num_frames == 40
    assert about(bright_frames(video), (16, 24))
    assert about(loud_frames(video), (4, 12), (32, 38))


def test_start_and_duration_choose_the_same_part_of_both_tracks(renderer):
    played, driving = bursts(4, (1.5, 2.0)), bursts(4, (2.0, 2.5), rate_hz=44_100)
    video = renderer.render(flash(renderer, played, driving, 44_100, start=1.0, duration=2.0))
    assert video.num_frames == 32
    assert about(bright_frames(video), (16, 24))
    assert about(loud_frames(video), (8, 16))


def test_nobody_speaks_behind_the_end_of_the_played_sound(renderer):
    prompt = flash(renderer, bursts(2.5, (0.5, 2.5)), bursts(5, (0.5, 1.0), (2.6, 5.0)))
    video, log = log_of(renderer, lambda: renderer.render(prompt))
    assert video.num_frames == 40
    assert about(bright_frames(video), (8, 16))
    assert "driving_audio is 2.50 s longer than audio" in log


@pytest.mark.parametrize("silence", ["model", "rest", "rest in pauses"])
def test_a_shorter_driving_track_ends_in_silence(silence, renderer):
    prompt = flash(renderer, bursts(2.5, (0.5, 2.5)), bursts(1.5, (0.5, 1.5)), silence=silence)
    video, log = log_of(renderer, lambda: renderer.render(prompt))
    assert video.num_frames == 40
    assert about(bright_frames(video), (8, 24))
    assert "driving_audio ends 1.00 s before audio" in log


@pytest.mark.parametrize(("sync_offset", "frames"), [(250, (20, 28)), (-250, (12, 20)), (0, (16, 24))])
def test_sync_offset_moves_the_picture_and_not_the_sound(sync_offset, frames, renderer):
    video = renderer.render(flash(renderer, bursts(2.5, (1.0, 1.5)), sync_offset=sync_offset))
    assert video.num_frames == 40
    assert about(bright_frames(video), frames)
    assert about(loud_frames(video), (16, 24))


def test_quiet_part_of_a_sound_is_heard_with_sliding_statistics(renderer):
    sound = bursts(24, (0.2, 0.6), level=0.05) + bursts(24, (12, 23))

    def contrast(**settings):
        prompt = flash(renderer, sound, **settings)
        inputs_of(prompt, "WanS2VPrepare")["max_clips"] = 1
        level = renderer.render(prompt).luma.astype(np.float64).mean(axis=(1, 2))
        return level.max() - level.min()

    assert contrast(normalisation="window") > 4 * contrast(normalisation="file")


def test_loudness_scales_what_is_played_and_not_what_is_heard(renderer):
    sound = bursts(2.5, (0.5, 2.0))
    plain = renderer.render(flash(renderer, sound))
    quiet, log = log_of(renderer, lambda: renderer.render(flash(renderer, sound, loudness=-30.0)))
    change_db = 20 * np.log10(np.std(quiet.sound) / np.std(plain.sound))
    measured = float(log.split("audio: ")[1].split(" LUFS")[0])
    assert change_db == pytest.approx(-30 - measured, abs=0.3)
    assert np.abs(quiet.luma.astype(int) - plain.luma).max() <= 1


@pytest.mark.parametrize("silence", ["rest", "rest in pauses"])
def test_rest_changes_what_the_real_models_make_of_the_end(silence, renderer):
    plain, rested = (renderer.render(quick_start(silence=choice, **EXACT)) for choice in ("model", silence))
    assert rested.num_frames == plain.num_frames
    assert not np.array_equal(rested.luma, plain.luma)


def test_real_audio_history_changes_only_later_clips(renderer):
    def frames(audio_history):
        prompt = quick_start(**TWO_CLIPS, **EXACT)
        inputs_of(prompt, "WanS2VPrepare")["audio_history"] = audio_history
        return renderer.render(prompt).luma

    repeated, real = frames("first frame"), frames("real")
    assert np.array_equal(real[:FIRST_CLIP], repeated[:FIRST_CLIP])
    assert not np.array_equal(real[FIRST_CLIP:], repeated[FIRST_CLIP:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "empty", "seconds": 1.0}, "driving_audio is empty"),
        ({"kind": "nan", "seconds": 1.0}, "driving_audio contains NaN"),
        ({"kind": "tone", "seconds": 0.02}, "The selected sound lasts 0.020 s as the model hears it"),
    ],
)
def test_driving_track_is_checked(change, message, renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VAudioEncode")["driving_audio"] = [add(prompt, "StandInAudio", **change), 0]
    with pytest.raises(PromptFailed, match=message):
        renderer.render(prompt)

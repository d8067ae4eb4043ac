"""A dubbed video through the whole graph: its own pixels outside of the mask, in the file that is written, at its size and rate."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from wan_s2v_pack.cli.comfyui.errors import PromptFailed

from .graphs import TWO_CLIPS, Prompt, add, change, find, inputs_of, quick_start

WIDTH, HEIGHT = 80, 64
FPS = Fraction(25)
LOSSLESS = "mkv (ffv1, lossless)"
ROWS, COLUMNS = slice(24, 56), slice(28, 60)  # what may change


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def write_source(path, frames, fps=FPS, others=()):
    """A lossless video with a sound, and further tracks."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        sounds = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in (0, *others)]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        for sound, pitch in zip(sounds, (100, *others), strict=True):
            wave = np.sin(np.arange(round(len(frames) / fps * 16_000)) * 2 * np.pi * pitch / 16_000)
            frame = av.AudioFrame.from_ndarray((wave * 8000).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode())


def write_mask(path, value=255):
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[ROWS, COLUMNS] = value
    Image.fromarray(mask).save(path)


def read(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


DEFAULTS = {
    **{"feather": 4, "strength": 1.0, "at_end": "hold", "work_on": "whole picture"},
    **{"reference_at": 0.0, "loop_seconds": 2.0, "fps": 16.0},
}


@pytest.fixture
def dub(renderer):
    """The quick start on a video of so many pictures."""
    folder = renderer.server.input_directory

    def make(name, count=40, mask=255, others=(), fps=FPS, options=None, **changes) -> Prompt:
        write_source(folder / f"{name}.mkv", pictures(count), fps, others)
        write_mask(folder / f"{name}.png", mask)
        prompt = quick_start(**{"format": LOSSLESS, "filename_prefix": f"dub/{name}", **changes})
        inputs = {
            "source_video": [add(prompt, "LoadVideo", file=f"{name}.mkv"), 0],
            "source_mask": [add(prompt, "LoadImageMask", image=f"{name}.png", channel="red"), 0],
        }
        node = add(prompt, "WanS2VDub", **{**inputs, **DEFAULTS, **(options or {})})
        inputs_of(prompt, "WanS2VPrepare").update(dub=[node, 0], image=[node, 1])
        del prompt[find(prompt, "LoadImage")]
        return prompt

    return make


def require_source_outside(path, expected):
    """Every bit outside of the mask is the source's, and inside something is new in every frame."""
    made, outside = read(path), np.ones((HEIGHT, WIDTH), bool)
    outside[ROWS, COLUMNS] = False
    assert made.shape == expected.shape
    assert np.array_equal(made[:, outside], expected[:, outside])
    assert (made[:, ~outside] != expected[:, ~outside]).any(axis=(1, 2)).all()


@pytest.mark.parametrize(("solver", "options"), [("unipc", {}), ("euler", {"strength": 0.5}), ("dpm++", {"work_on": "around the mask"})])
def test_file_has_the_bits_of_the_source_outside_of_the_mask(dub, renderer, solver, options):
    video = renderer.render(dub(f"bits_{solver[:3]}", options=options, solver=solver, **TWO_CLIPS))
    assert video.fps == FPS
    assert abs(video.sound_seconds - 1.5) < 0.05
    require_source_outside(video.path, pictures(40)[:38])  # 24 frames of the model last 1.5 s


def test_other_sounds_are_kept_and_the_first_is_replaced(dub, renderer):
    path = renderer.render(dub("tracks", others=(440, 880), **TWO_CLIPS)).path
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 3
        pitches = []
        for stream in range(3):
            container.seek(0)
            wave = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=stream)]).astype(float)
            rate = container.streams.audio[stream].rate
            pitches.append(np.argmax(np.abs(np.fft.rfft(wave))) * rate / len(wave))
    assert [round(pitch / 20) * 20 for pitch in pitches[1:]] == [440, 880]
    assert abs(pitches[0] - 100) > 5


def test_a_named_run_goes_on_and_knows_its_source_by_content(dub, renderer):
    prompt = dub("run", run_name="dub run", **TWO_CLIPS)
    first = read(renderer.render(prompt).path)
    folder = renderer.server.output_directory / "wan_s2v_runs"
    again = change(prompt, filename_prefix="dub/again", redo_from_clip=2)
    assert np.array_equal(read(renderer.render(again).path), first)
    assert sorted(path.name for path in folder.glob("dub run*")) == ["dub run"]
    write_source(renderer.server.input_directory / "run.mkv", pictures(40, seed=1))
    other = renderer.render(change(again, filename_prefix="dub/other", redo_from_clip=0))
    require_source_outside(other.path, pictures(40, seed=1)[:38])
    assert sorted(path.name for path in folder.glob("dub run*")) == ["dub run", "dub run_2"]


def test_a_sound_that_is_longer_than_the_video_holds_its_last_picture(dub, renderer):
    path = renderer.render(dub("long", count=20, **TWO_CLIPS)).path
    require_source_outside(path, np.concatenate([pictures(20), np.repeat(pictures(20)[-1:], 18, axis=0)]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask": 0}, "source_mask is empty"),
        ({"sync_mode": "official"}, "A video is dubbed with sync_mode aligned"),
    ],
)
def test_what_cannot_be_dubbed_is_refused_before_sampling(dub, renderer, options, words):
    with pytest.raises(PromptFailed, match=words):
        renderer.render(dub("refused", **options))

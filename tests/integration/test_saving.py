"""Save Video and the doors for AUDIO and IMAGE in a real server: names, videos of others, sounds of others."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

import av
import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed, PromptRefused

from .graphs import Prompt, add, inputs_of, quick_start

UNEVEN_S = [number / 25 for number in range(10)] + [1.2 + number / 25 for number in range(10)]  # the average is 13 fps


def save_graph(prompt: Prompt | None = None, **inputs) -> Prompt:
    prompt = {} if prompt is None else prompt
    source = inputs if "video" in inputs else {"images": [add(prompt, "StandInImages", count=3, width=64, height=48), 0], **inputs}
    settings = {"filename_prefix": "saving/a", "format": "mkv (ffv1, lossless)", "quality": 18, "fps": 16.0}
    add(prompt, "WanS2VSaveVideo", **{**settings, **source})
    return prompt


def write_uneven(path, *, sound_start_s=None):
    """Pictures that are lighter one by one, with half a second of sound or none."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"qp": "4"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = None if sound_start_s is None else container.add_stream("aac", rate=48_000, layout="mono")
        for number, second in enumerate(UNEVEN_S):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(0.5 * np.sin(np.arange(24_000, dtype=np.float32) * 0.05)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, round(sound_start_s * 48_000), Fraction(1, 48_000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())


def test_patterns_in_the_name_become_values(renderer):
    """The front end replaces them for ComfyUI's own nodes only."""
    prefix = "saving/%date:yyyy%/%WanS2VSaveVideo.quality%_%width%x%height%_%StandInImages.count%"
    path = renderer.video_path(renderer.client.run(save_graph(filename_prefix=prefix)))
    assert path.parent.name == str(datetime.now().year)
    assert path.name == "18_64x48_3_00001_.mkv"


@pytest.mark.parametrize("prefix", ["", "a:b", "what?", "con/a", "a.", "x\ny"])
def test_a_name_that_no_disk_takes_is_refused_at_once(prefix, renderer):
    with pytest.raises(PromptRefused, match="filename_prefix"):
        renderer.client.run(save_graph(filename_prefix=prefix))


def test_a_file_of_uneven_rate_with_a_late_sound_keeps_its_times(renderer):
    """At the average rate the second half came 0.8 s too early, and the sound at the beginning."""
    write_uneven(renderer.server.input_directory / "uneven.mp4", sound_start_s=1.2)
    prompt: Prompt = {}
    video = [add(prompt, "LoadVideo", file="uneven.mp4"), 0]
    path = renderer.video_path(renderer.client.run(save_graph(prompt, video=video)))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    with av.open(str(path)) as container:
        loud = [float(part.pts * part.time_base) for part in container.decode(audio=0) if np.abs(part.to_ndarray()).max() > 2**28]
    levels = {round(float(frame.pts * frame.time_base), 2): frame.to_ndarray(format="gray").mean() for frame in frames}
    for second in (0.2, 0.8, 1.2, 1.4):
        number = sum(time <= second + 0.01 for time in UNEVEN_S) - 1
        assert levels[second] == pytest.approx(20 + 10 * number, abs=4)
    assert loud[0] == pytest.approx(1.2, abs=0.1)


def test_a_driving_video_without_sound_is_refused(renderer):
    """The model heard the other sound, without a word."""
    write_uneven(renderer.server.input_directory / "silent.mp4")
    prompt = quick_start()
    video = add(prompt, "LoadVideo", file="silent.mp4")
    inputs_of(prompt, "WanS2VAudioEncode")["driving_audio"] = [add(prompt, "GetVideoComponents", video=[video, 0]), 1]
    with pytest.raises(PromptFailed, match="There is no driving_audio"):
        renderer.client.run(prompt)


@pytest.mark.parametrize("kind", ["int16", "channels last", "flat"])
def test_sounds_of_other_shapes_are_played_as_they_are(kind, renderer):
    """Integers were noise at full scale, channels behind the samples a mute file."""
    prompt: Prompt = {}
    audio = [add(prompt, "StandInAudio", kind=kind, seconds=1.0), 0]
    images = [add(prompt, "StandInImages", count=16, width=64, height=48), 0]
    path = renderer.video_path(renderer.client.run(save_graph(prompt, images=images, audio=audio)))
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)]) / 2**31
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.01)


def test_a_sound_of_no_shape_is_refused_in_words(renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "StandInAudio", kind="no rate", seconds=1.0), 0]
    with pytest.raises(PromptFailed, match=r"audio must be \[batch, channels, samples\].*got the sample_rate None"):
        renderer.client.run(prompt)

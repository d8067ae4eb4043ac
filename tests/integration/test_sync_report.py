"""The sync report in a real graph: of a saved file, of a VIDEO, and of files that are not there."""

from __future__ import annotations

import os

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed

from .graphs import Prompt, add, find, flash_graph, inputs_of
from .sounds import write_wav

RATE_HZ = 16_000
SECONDS = 8
BURST_S = 0.25


def uneven_clicks() -> np.ndarray:
    """Tone bursts without a beat: a steady one would fit at every beat."""
    time = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    centres = 0.3 + np.cumsum(np.random.default_rng(0).uniform(0.3, 0.8, 30))
    envelope = sum(
        np.where(np.abs(time - c) < BURST_S / 2, np.cos(np.pi * (time - c) / BURST_S) ** 2, 0) for c in centres[centres < SECONDS - 1]
    )
    return 0.8 * envelope * np.sin(2 * np.pi * 1000 * time)


def click_graph(renderer, prefix: str, **settings) -> Prompt:
    write_wav(renderer.server.input_directory / "uneven_clicks.wav", uneven_clicks(), RATE_HZ)
    prompt = flash_graph(cfg=1.0, filename_prefix=f"sync_report/{prefix}", **settings)
    inputs_of(prompt, "LoadAudio")["audio"] = "uneven_clicks.wav"
    return prompt


def report_of(renderer, prompt: Prompt, **inputs) -> str:
    """Run a prompt with a report added, and check that its plot is there."""
    node = add(prompt, "WanS2VSyncReport", **inputs)
    text = add(prompt, "PreviewAny", source=[node, 0])
    outputs = renderer.client.run(prompt)
    (plot,) = outputs[node]["images"]
    assert (renderer.server.base_directory / plot["type"] / plot["subfolder"] / plot["filename"]).stat().st_size > 0
    (report,) = outputs[text]["text"]
    assert outputs[node]["text"] == [report]
    return report


@pytest.mark.parametrize(
    ("sync_mode", "finding"), [("aligned", "In sync: viewers notice"), ("official", "The picture is about 187.5 ms early: the 3 frames")]
)
def test_a_saved_file_is_measured(sync_mode, finding, renderer):
    prompt = click_graph(renderer, sync_mode, sync_mode=sync_mode)
    report = report_of(renderer, prompt, path=[find(prompt, "WanS2VSaveVideo"), 1])
    assert report.startswith(f"file: {sync_mode}_00001_.mp4\npicture: h264, 64 x 64, 16 fps, ")
    assert finding in report
    assert "begin: picture 0.000 s, sound 0.000 s, 0 ms apart" in report
    assert "Timestamps: picture and sound begin and end together, within one frame." in report


def test_a_video_is_measured_with_its_file(renderer):
    prompt = click_graph(renderer, "video", sync_mode="aligned", format="mkv (ffv1, lossless)")
    report = report_of(renderer, prompt, video=[find(prompt, "WanS2VSaveVideo"), 0])
    assert "file: video_00001_.mkv" in report
    assert "picture: ffv1" in report
    assert "In sync: viewers notice" in report


def test_a_video_without_a_file_says_whose_timestamps_they_are(renderer):
    prompt = click_graph(renderer, "memory", sync_mode="aligned")
    decode = add(prompt, "WanS2VDecode", clips=inputs_of(prompt, "WanS2VSaveVideo")["clips"])
    video = add(prompt, "CreateVideo", images=[decode, 0], audio=[decode, 1], fps=[decode, 2])
    report = report_of(renderer, prompt, video=[video, 0])
    assert "file: a VIDEO without a file: the timestamps are those of ComfyUI's own encoding" in report
    assert "In sync: viewers notice" in report


def test_a_file_that_was_written_again_is_read_again(renderer):
    first, second = (renderer.render(click_graph(renderer, "again", sync_mode=mode)).path for mode in ("aligned", "official"))
    copy = renderer.server.output_directory / "sync_report" / "copy.mp4"
    findings = []
    for source in (first, second):
        os.replace(source, copy)
        findings.append(report_of(renderer, {}, path="sync_report/copy.mp4"))
    assert "In sync: viewers notice" in findings[0]
    assert "The picture is about 187.5 ms early" in findings[1]


def failure(renderer, prompt: Prompt) -> str:
    with pytest.raises(PromptFailed) as caught:
        renderer.client.run(prompt)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Give either video or path; got neither."),
        ({"path": "missing.mp4"}, "There is no file 'missing.mp4' in ComfyUI's output, input or temp folder."),
        ({"path": "../../outside.mp4"}, "There is no file '../../outside.mp4' in ComfyUI's output, input or temp folder."),
        ({"path": os.__file__}, "in ComfyUI's output, input or temp folder."),
        ({"path": "sync_report/text.mp4"}, "The video cannot be read: "),
    ],
    ids=["nothing", "missing", "above", "elsewhere", "text"],
)
def test_what_cannot_be_read_is_said(inputs, message, renderer):
    folder = renderer.server.output_directory / "sync_report"
    folder.mkdir(exist_ok=True)
    (folder / "text.mp4").write_text("not a video")
    prompt: Prompt = {}
    add(prompt, "WanS2VSyncReport", **inputs)
    assert message in failure(renderer, prompt)


def test_video_and_path_together_are_refused(renderer):
    prompt = click_graph(renderer, "both", sync_mode="aligned")
    save = find(prompt, "WanS2VSaveVideo")
    add(prompt, "WanS2VSyncReport", video=[save, 0], path=[save, 1])
    assert "Give either video or path; got both." in failure(renderer, prompt)

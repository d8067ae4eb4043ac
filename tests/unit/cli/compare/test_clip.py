"""The clip: the graph that is asked for, and the file that is read."""

from __future__ import annotations

import argparse
from fractions import Fraction
from unittest.mock import Mock

import av
import numpy as np
import pytest
from PIL import Image
from wan_s2v_pack.cli.comfyui.client import OutputFile
from wan_s2v_pack.cli.compare import clip
from wan_s2v_pack.cli.predict.graph import FILE_INPUTS, quick_start
from wan_s2v_pack.cli.predict.job import Made
from wan_s2v_pack.cli.predict.object_info import PackMissing, PromptError
from wan_s2v_pack.cli.predict.options import PICTURE, SOUND
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import ENVELOPE_HZ, GRID, read_sound

FPS, SIDE, FRAMES = 16, 128, 77
PARTS = ("model", "text", "audio", "vae")


def object_info(**files):
    """The nodes of the quick start, with one file in each loader."""
    info = {node["class_type"]: {"input": {"required": {}}} for node in quick_start().values()}
    for part in PARTS:
        node, name = FILE_INPUTS[part]
        info[node]["input"]["required"][name] = ["COMBO", {"options": [files.get(part, f"s2v_umt5_wav2vec2_wan_2.1_{part}.safetensors")]}]
    return info


def write_video(path, frames, sound=SOUND):
    """Frames [T, H, W, 3] uint8 with the beginning of a sound."""
    with av.open(str(path), "w") as container, av.open(str(sound)) as source:
        video = container.add_stream("libx264", rate=FPS, options={"crf": "10"})
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio = container.add_stream("aac", rate=22050)
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        for frame in source.decode(audio=0):
            if frame.time >= len(frames) / FPS:
                break
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def portrait(frames=FRAMES):
    picture = np.asarray(Image.open(PICTURE).convert("RGB").resize((SIDE, SIDE)))
    return np.repeat(picture[None], frames, axis=0).copy()


def talking():
    """The portrait, whose mouth gets darker with the loudness of the sample speech."""
    frames, loudness = portrait(), read_sound(SOUND, lambda: None).loudness
    for index, pixels in enumerate(frames):
        part = loudness[index * ENVELOPE_HZ // FPS : (index + 1) * ENVELOPE_HZ // FPS].mean() ** 0.5
        mouth = pixels[52:62, 56:72]
        mouth[:] = np.clip(mouth - 150.0 * part, 0, 255)
    return frames


def statuses(frames, path):
    return [finding.status for finding in clip.judge_clip(clip.read_clip(write_video(path, frames), PICTURE), 1.0)]


def test_a_file_in_which_the_portrait_talks(tmp_path):
    assert statuses(talking(), tmp_path / "a.mp4") == ["ok"] * 4


def test_a_file_of_noise(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, GRID, GRID, 3), dtype=np.uint8)
    frames = noise.repeat(SIDE // GRID, axis=1).repeat(SIDE // GRID, axis=2)
    assert statuses(frames, tmp_path / "a.mp4") == ["ok", "problem", "problem", "ok"]


def test_a_file_in_which_the_portrait_is_still(tmp_path):
    assert statuses(portrait(), tmp_path / "a.mp4") == ["ok", "ok", "problem", "ok"]


def test_a_file_of_black_frames_that_is_too_short(tmp_path):
    assert statuses(np.zeros((20, SIDE, SIDE, 3), np.uint8), tmp_path / "a.mp4") == ["problem", "problem", "problem", "ok"]


def test_reference_is_the_square_in_the_middle(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert clip.reference_cells(tmp_path / "wide.png") == pytest.approx(np.full(GRID * GRID, 200.0))


def test_files_are_chosen_as_predict_chooses_them():
    names = clip.choose_names(object_info(vae="mine.pth"), {"model": None, "text": None, "audio": None, "vae": "mine.pth"})
    assert names == {**{part: f"s2v_umt5_wav2vec2_wan_2.1_{part}.safetensors" for part in PARTS[:3]}, "vae": "mine.pth"}


def test_what_is_missing_is_named():
    with pytest.raises(PromptError, match=r"model files are missing:\n  other\.pth  in  models/vae"):
        clip.choose_names(object_info(), {"vae": "other.pth"})
    with pytest.raises(PackMissing, match="ComfyUI has no node"):
        clip.choose_names({}, {})


def test_clip_is_the_sample_at_the_size_that_is_asked_for(tmp_path, monkeypatch):
    made = Made(OutputFile("a.mp4", "", "output"), {}, "id", 12.0)
    make = Mock(return_value=made)
    monkeypatch.setattr(clip, "make_video", make)
    client = Mock()
    client.download.side_effect = lambda _file, path: write_video(path, portrait(8))
    options = argparse.Namespace(side=128, steps=3, seconds=0.5)
    found, seconds = clip.make_clip(client, options, {"vae": "mine.pth"}, tmp_path / "clip.mp4")
    request = make.call_args.args[1]
    assert (request.image, request.audio, request.files, request.suffix) == (PICTURE, SOUND, {"vae": "mine.pth"}, "mp4")
    assert request.inputs["WanS2VPrepare"] == {"size": "custom", "size.width": 128, "size.height": 128}
    assert request.inputs["WanS2VSampler"]["steps"] == 3
    assert request.inputs["WanS2VAudioEncode"] == {"duration": 0.5}
    assert (seconds, found.brightness.shape, found.offset) == (12.0, (8, GRID * GRID), None)
    assert Fraction(len(found.brightness), FPS) == Fraction(1, 2)

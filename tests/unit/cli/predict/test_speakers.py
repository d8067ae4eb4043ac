"""Speakers on the command line: where SOUND:PLACE is cut, also beside drives of Windows, and the graph they come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from wan_s2v_pack.cli.predict import graph
from wan_s2v_pack.cli.predict.graph import AUDIO_ENCODE, PREPARE, SPEAKERS, Request
from wan_s2v_pack.cli.predict.object_info import PackMissing, PromptError
from wan_s2v_pack.cli.predict.options import request_from
from wan_s2v_pack.cli.predict.speakers import Speaker, parse_speaker, problem_of
from wan_s2v_pack.tests.unit.cli.predict.test_graph import server  # noqa: F401  # a fixture
from wan_s2v_pack.tests.unit.cli.predict.test_predict import parse

BOX = "50%,0,50%,100%"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """In the current folder, and some that no single system has: on drives, and with a colon in the name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav", "m.png"):
        Path(name).write_bytes(b"")
    here = ("a.wav", "b.wav", "m.png", "C:/talk/a.wav", "D:/m.png", "a:b.wav")
    monkeypatch.setattr(Path, "is_file", lambda path: path.as_posix() in here)


@pytest.mark.parametrize(
    ("text", "sound", "place"),
    [
        ("a.wav:m.png", "a.wav", Path("m.png")),
        (f"a.wav:{BOX}", "a.wav", BOX),
        ("a.wav:10 20 30 40", "a.wav", "10 20 30 40"),
        (":m.png", None, Path("m.png")),
        ("C:/talk/a.wav:D:/m.png", "C:/talk/a.wav", Path("D:/m.png")),
        ("C:/talk/a.wav:m.png", "C:/talk/a.wav", Path("m.png")),
        (f"C:/talk/a.wav:{BOX}", "C:/talk/a.wav", BOX),
        (":D:/m.png", None, Path("D:/m.png")),
        ("a:b.wav:m.png", "a:b.wav", Path("m.png")),
    ],
)
def test_a_sound_and_a_place(files, text, sound, place):
    assert parse_speaker(text) == Speaker(sound and Path(sound), place)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.wav", "must be SOUND:MASK or SOUND:BOX"),
        ("a.wav:nothing.png", "there is no file nothing.png"),
        ("nothing.wav:m.png", "there is no file nothing.wav"),
        ("a.wav:", "must be SOUND:MASK"),
        ("a.wav:1,2,3", "there is no file 1,2,3"),
        ("C:/talk/b.wav:D:/m.png", "must be SOUND:MASK"),
    ],
)
def test_what_is_none(files, text, words):
    with pytest.raises(ValueError, match=words):
        parse_speaker(text)


def test_all_of_them_together():
    one, listener = Speaker(Path("a.wav"), BOX), Speaker(None, BOX)
    assert problem_of([]) is problem_of([one, listener]) is None
    assert "nobody has a sound" in problem_of([listener])
    assert "there may be 4, got 5" in problem_of([one] * 5)


def test_options(files):
    request = request_from(parse("--speaker", ":m.png", "--speaker", f"b.wav:{BOX}", "--speaker", "a.wav:0,0,50%,100%"))
    assert (request.audio, request.played) == (Path("b.wav"), None)
    assert request.sounds == [Path("b.wav"), Path("b.wav"), Path("a.wav")]
    assert request_from(parse("--speaker", "a.wav:m.png", "--audio", "b.wav")).played == Path("b.wav")
    with pytest.raises(PromptError, match="nobody has a sound"):
        request_from(parse("--speaker", ":m.png"))


@pytest.fixture
def with_speakers(server):  # noqa: F811
    kinds = {"turns": ["STRING", {"default": ""}], "nobody": ["COMBO", {"options": ["silence", "nearest"], "default": "silence"}]}
    server[SPEAKERS] = {"input": {"required": {"audio_encoder": ["AUDIO_ENCODER", {}], **kinds}}}
    return server


def build(info, *speakers, **changes):
    request = Request(image=Path("me.png"), audio=Path("a.wav"), speakers=speakers, **changes)
    return graph.build_prompt(request, info, lambda path: f"uploaded {path}")


def test_the_graph(with_speakers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 255).save("l.png")
    painted = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    painted.putpixel((2, 2), (200, 0, 0, 0))
    painted.save("m.png")  # as ComfyUI's mask editor keeps it: the picture itself, transparent where it was painted
    speakers = Speaker(None, Path("l.png")), Speaker(Path("a.wav"), Path("m.png")), Speaker(Path("b.wav"), BOX)
    changes = {"inputs": {AUDIO_ENCODE: {"duration": 5.0}}, "changes": [f"{SPEAKERS}.nobody=nearest"]}
    prompt = build(with_speakers, *speakers, played=Path("mix.wav"), **changes)
    node = prompt[graph.inputs_of(prompt, PREPARE)["encoded_audio"][0]]
    inputs = node["inputs"]
    assert node["class_type"] == SPEAKERS
    assert (inputs["turns"], inputs["nobody"], inputs["box_3"]) == ("", "nearest", "50% 0 50% 100%")
    assert "encoded_audio_1" not in inputs
    encodes = [prompt[inputs[f"encoded_audio_{number}"][0]]["inputs"] for number in (2, 3)]
    assert [encode["duration"] for encode in encodes] == [5.0, 5.0]
    assert [prompt[encode["audio"][0]]["inputs"]["audio"] for encode in encodes] == ["uploaded a.wav", "uploaded b.wav"]
    masks = [prompt[inputs[f"mask_{number}"][0]]["inputs"] for number in (1, 2)]
    assert masks == [{"image": "uploaded l.png", "channel": "red"}, {"image": "uploaded m.png", "channel": "alpha"}]
    assert prompt[inputs["played_audio"][0]]["inputs"] == {"audio": "uploaded mix.wav"}
    assert graph.inputs_of(prompt, "LoadAudio")["audio"] == "uploaded a.wav"


def test_an_older_pack_on_the_server(server):  # noqa: F811
    with pytest.raises(PackMissing, match="ComfyUI has no node WanS2VSpeakers"):
        build(server, Speaker(Path("a.wav"), BOX))

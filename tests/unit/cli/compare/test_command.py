"""The command as a whole, with a stand-in for the server."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from unittest.mock import Mock

import numpy as np
import pytest
from wan_s2v_pack.cli import doctor
from wan_s2v_pack.cli.comfyui.errors import ComfyError, NoAnswer, PromptFailed
from wan_s2v_pack.cli.comfyui.server import ServerError
from wan_s2v_pack.cli.compare import clip, command, measuring
from wan_s2v_pack.cli.compare.looks import Clip
from wan_s2v_pack.cli.doctor.checks import Facts
from wan_s2v_pack.cli.models.folders import FolderError, ModelFolders
from wan_s2v_pack.cli.predict import connection
from wan_s2v_pack.tests.sync_measurements import offset

from .test_agreement import GOOD


def parse(*arguments):
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    return parser.parse_args(["doctor", "--compare", *arguments])


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A machine on which everything is in order; returns what is asked of the server."""
    (tmp_path / "diffusion_models").mkdir()
    (tmp_path / "diffusion_models" / "a.pth").write_bytes(b"x")
    picture = np.random.default_rng(0).uniform(0, 255, 256)
    region = np.zeros(256)
    region[7 * 16 + 7] = 1
    good = Clip(np.tile(picture, (5, 1)), picture, offset())
    good.offset.region[:] = region
    asked = []

    @contextmanager
    def connect(options, _say, packs):
        asked.append((options, packs))
        yield Mock()
        asked.append("stopped")

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.setattr(command, "find_comfyui", lambda given: given)
    monkeypatch.setattr(command, "find_base", lambda given: given)
    monkeypatch.setattr(command, "find_model_folders", lambda *_: ModelFolders(tmp_path, {}))
    monkeypatch.setattr(command, "collect", lambda **_: Facts(python="3.12.4"))
    monkeypatch.setattr(clip, "choose_names", lambda *_: {"model": "a.pth"})
    monkeypatch.setattr(clip, "make_clip", Mock(return_value=(good, 61.0)))
    monkeypatch.setattr(measuring, "call_models", Mock(return_value=GOOD))
    return asked


def test_all_in_order(stage, capsys):
    assert doctor.run(parse()) == 0
    out, said = capsys.readouterr()
    assert "model: a.pth, " in out
    assert "the same function" in out
    assert "5 frames in 61 s" in out
    assert out.splitlines()[-2] == "verdict: the model, the picture and the mouth are in order"
    assert "calling our model and ComfyUI's own" in said
    (options, packs), ended = stage
    assert (options.server, packs, ended) == (None, [measuring.CALLS], "stopped")


def test_a_problem_is_status_1(stage, capsys, monkeypatch):
    picture = np.random.default_rng(0).uniform(0, 255, 256)
    monkeypatch.setattr(clip, "make_clip", Mock(return_value=(Clip(255 - np.tile(picture, (5, 1)), picture, None), 61.0)))
    assert doctor.run(parse()) == 1
    assert "verdict: problems: Picture, Mouth" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [
        ComfyError("no result"),
        NoAnswer("it is gone"),
        ServerError("it ended"),
        FolderError("no ComfyUI"),
        OSError("full"),
    ],
)
def test_what_goes_wrong_is_said_without_a_traceback(stage, capsys, monkeypatch, error):
    monkeypatch.setattr(measuring, "call_models", Mock(side_effect=error))
    assert doctor.run(parse()) == 1
    out, said = capsys.readouterr()
    assert out == ""
    assert f"doctor --compare failed: {error}" in said


def test_a_node_that_fails_is_a_verdict_and_the_clip_is_made_nevertheless(stage, capsys, monkeypatch):
    """Guards the block of somebody whose memory is too small for one of the two."""
    monkeypatch.setattr(measuring, "call_models", Mock(side_effect=PromptFailed("WanS2VCompare (node 1): out of memory")))
    assert doctor.run(parse()) == 1
    out = capsys.readouterr().out
    assert "problem  Model calls      failed: WanS2VCompare (node 1): out of memory" in out
    assert "5 frames in 61 s" in out
    assert "verdict: problems: Model calls" in out


def test_a_video_that_cannot_be_read_is_a_verdict(stage, capsys, monkeypatch):
    monkeypatch.setattr(clip, "make_clip", Mock(side_effect=ValueError("The video cannot be read: it is empty")))
    assert doctor.run(parse()) == 1
    assert "problem  Clip             failed: The video cannot be read: it is empty" in capsys.readouterr().out


def test_json_has_the_same(stage, capsys):
    assert doctor.run(parse("--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["environment"][-1].startswith("model: a.pth, ")
    assert {"status": "ok", "topic": "Picture"}.items() <= told["findings"][4].items()


def test_a_server_that_runs_is_in_the_way(stage, capsys):
    assert doctor.run(parse("--server", "http://127.0.0.1:8188")) == 1
    assert "leave out --server" in capsys.readouterr().err
    assert stage == []

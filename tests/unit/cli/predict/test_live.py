"""Live video on the command line: its graph, the options that do not fit it, and the stream."""

from __future__ import annotations

import errno
import io
import sys
import threading
import time
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli import predict
from wan_s2v_pack.cli.comfyui.client import OutputFile
from wan_s2v_pack.cli.comfyui.errors import ComfyError, PromptInterrupted
from wan_s2v_pack.cli.predict import job
from wan_s2v_pack.cli.predict.graph import LIVE_SAMPLER, SAMPLER, go_live, inputs_of, quick_start, sampler_of
from wan_s2v_pack.cli.predict.live import STREAMED, Stream, StreamBroken
from wan_s2v_pack.cli.predict.object_info import PromptError
from wan_s2v_pack.cli.predict.options import request_from
from wan_s2v_pack.tests.unit.cli.predict.test_predict import parse

INFO = {LIVE_SAMPLER: {"input": {"required": {"plan": ["WAN_S2V_PLAN", {}]}}}}
SHOWN = {"images": [{"filename": STREAMED, "subfolder": "wan_s2v_1", "type": "temp"}], "animated": [True]}


def test_the_live_sampler_takes_the_place_of_the_other():
    prompt = quick_start()
    before = dict(inputs_of(prompt, SAMPLER))
    go_live(prompt, INFO)
    inputs = sampler_of(prompt)
    assert inputs == inputs_of(prompt, LIVE_SAMPLER)
    assert {name: inputs[name] for name in ("model", "positive", "vae", "plan", "seed")} == {
        name: before[name] for name in ("model", "positive", "vae", "plan", "seed")
    }
    assert inputs["steps"] == "4"
    assert not {"negative", "cfg", "solver", "shift"} & set(inputs)
    assert inputs_of(prompt, "WanS2VAudioEncode")["frame_rate"] == "25"


def test_three_steps():
    prompt = quick_start()
    inputs_of(prompt, SAMPLER)["steps"] = 3
    go_live(prompt, INFO)
    assert sampler_of(prompt)["steps"] == "3"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "-"], "needs --live"),
        (["--live", "--output", "-", "--json"], "both want the standard output"),
        (["--live", "--fast", "--guidance", "4"], "--fast, --guidance mean nothing with --live"),
        (["--live", "--video", __file__], "--video is dubbed at 16 frames per second"),
        (["--live", "--dry-run"], "--dry-run does not know how long --live takes"),
        (["--live", "--steps", "20"], "--steps must be 4 or 3 with --live, got 20"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(PromptError, match=words):
        request_from(parse(*options))


def test_request():
    request = request_from(parse("--live", "--output", "-"))
    assert request.live
    assert request.suffix == "mp4"


class Growing:
    """A server whose file is longer with every look; the last bytes come behind the last message."""

    def __init__(self, parts):
        self._parts, self._seen = parts, b""

    def read(self, file, start):
        assert file == OutputFile(STREAMED, "wan_s2v_1", "temp")
        self._seen += self._parts.pop(0) if self._parts else b""
        yield from (self._seen[start : start + 2], self._seen[start + 2 :])


def test_stream_has_every_byte_once():
    output = io.BytesIO()
    with Stream(Growing([b"ftyp", b"", b"moof1", b"moof2", b"mfra"]), output) as stream:
        for _ in range(4):
            stream.on_shown("11", SHOWN)
        stream.on_shown("12", {"images": [{"filename": "a.mp4", "subfolder": "", "type": "output"}], "text": ("done",)})
    assert output.getvalue() == b"ftypmoof1moof2mfra"
    assert stream.num_bytes == len(output.getvalue())


def test_stream_that_breaks_is_an_error():
    class Gone:
        def read(self, file, start):
            raise ComfyError("the file is gone")

    stream = Stream(Gone(), io.BytesIO())
    with pytest.raises(ComfyError, match="could not be streamed: the file is gone"), stream:
        stream.on_shown("11", SHOWN)


def test_a_server_that_does_not_answer_for_a_while_is_asked_again():
    class Shaky(Growing):
        def read(self, file, start):
            if not self._seen and len(self._parts) == 3:
                self._parts.pop(0)
                raise ComfyError("no answer")
            yield from super().read(file, start)

    output = io.BytesIO()
    with Stream(Shaky([b"", b"ftyp", b"moof1"]), output) as stream:
        for _ in range(2):
            stream.on_shown("11", SHOWN)
    assert output.getvalue() == b"ftypmoof1"


class Closed(io.RawIOBase):
    """A pipe whose reader has gone."""

    def __init__(self):
        self.was_tried = threading.Event()

    def write(self, data):
        self.was_tried.set()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_job_whose_reader_has_gone_is_cancelled(monkeypatch):
    class Client:
        def __init__(self):
            self.interrupted = []

        def object_info(self):
            return {}

        def read(self, file, start):
            yield b"ftyp"

        def run(self, prompt, on_progress, *, on_shown, prompt_id, **_):
            on_shown("11", SHOWN)
            assert output.was_tried.wait(60)
            end_s = time.monotonic() + 60
            while time.monotonic() < end_s:
                on_shown("11", SHOWN)

        def interrupt(self, prompt_id):
            self.interrupted.append(prompt_id)

        def wait(self, prompt_id, **_):
            raise PromptInterrupted("The prompt was cancelled.")

    client, output = Client(), Closed()
    monkeypatch.setattr(job, "build_prompt", lambda *_: quick_start())
    with pytest.raises(StreamBroken, match="Broken pipe"), Stream(client, output) as stream:
        job.make_video(client, request_from(parse("--live", "--output", "-")), print, stream.on_shown)
    assert len(client.interrupted) == 1


def test_a_finished_run_is_streamed_from_its_file(monkeypatch):
    class Client:
        def read(self, file, start):
            assert file == finished
            yield b"whole video"[start:]

    finished = OutputFile("talk.mp4", "", "output")
    made = job.Made(finished, quick_start(), "id", 0.1)
    monkeypatch.setattr(job, "make_video", lambda *_: made)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Mock(buffer=output))
    assert predict.streamed(Client(), parse("--live", "--output", "-"))["status"] == "done"
    assert output.getvalue() == b"whole video"

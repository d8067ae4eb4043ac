"""The worker as a process in an environment of its own, with a stand-in for CosyVoice, asked by the pack's client."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import math
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.tests.fake_cosyvoice import PROMPTS, SAMPLE_RATE, SENTENCE_S, WORKER, make_environment, running_worker
from wan_s2v_pack.wan_s2v_model.media import speech_worker
from wan_s2v_pack.wan_s2v_model.media.espeak import write_wav
from wan_s2v_pack.wan_s2v_model.media.speech_worker import SpeechRequest, ask_worker, read_health, wait_until_ready

PAGE = Path(__file__).resolve().parents[3] / "docs" / "text_to_speech.md"
REFERENCE = write_wav(torch.zeros(1, 48000), 24000)  # 2 s
REQUEST = SpeechRequest("One. Two. Three.", REFERENCE, "What was said", "en", 1.0, seed=5)


class Cancelled(BaseException):
    """As ComfyUI's interrupt."""


def never_cancelled() -> None:
    pass


@pytest.fixture(scope="module", params=PROMPTS)
def environment(request, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("worker"), request.param)


@pytest.fixture(scope="module")
def ready_worker(environment):
    with running_worker(environment) as address:
        wait_until_ready(address, never_cancelled)
        yield address


@pytest.fixture
def worker(ready_worker, environment):
    environment.forget_calls()
    return ready_worker


def speak(address, **changes):
    return ask_worker(address, REQUEST._replace(**changes), never_cancelled)


def test_every_sentence_is_spoken_in_the_voice_of_the_reference(worker, environment):
    waveform, sample_rate = speak(worker)
    assert sample_rate == SAMPLE_RATE
    assert waveform.shape == (1, 3 * SENTENCE_S * SAMPLE_RATE)
    calls = environment.calls()
    assert [call["sentence"] for call in calls] == ["One", "Two", "Three"]
    assert {(call["function"], call["prompt_text"], call["stream"]) for call in calls} == {("zero_shot", "What was said", False)}
    assert calls[0]["prompt"] in ("reference.wav", [1, 2 * 16000])  # as its version wants it


@pytest.mark.parametrize("reference_text", ["", "  \n"])
def test_without_the_words_of_the_reference_only_its_timbre_is_taken(reference_text, worker, environment):
    speak(worker, reference_text=reference_text)
    assert {(call["function"], call["prompt_text"]) for call in environment.calls()} == {("cross_lingual", None)}


def test_speed(worker):
    assert speak(worker, speed=2.0)[0].shape[1] == 3 * SENTENCE_S * SAMPLE_RATE / 2


def test_the_seed_decides_the_reading(worker):
    first, again, other = (speak(worker, seed=seed)[0] for seed in (1, 1, 2**64 - 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_runs_in_its_own_environment(worker, environment):
    speak(worker)
    assert {call["prefix"] for call in environment.calls()} == {str(environment.python.parents[1])}
    assert importlib.util.find_spec("cosyvoice") is None


def test_a_cancel_ends_the_work(worker, environment):
    def cancelled_at_the_first_sentence():
        if environment.calls():
            raise Cancelled

    with pytest.raises(Cancelled):
        ask_worker(worker, REQUEST._replace(text="slow. " * 20), cancelled_at_the_first_sentence)
    spoken = len(environment.calls())
    speak(worker, text="next.")  # comes after whatever was still spoken
    assert len(environment.calls()) <= spoken + 3


def test_an_error_of_the_engine_is_passed_on(worker):
    with pytest.raises(RuntimeError, match="refused: AssertionError: cannot speak this"):
        speak(worker, text="unspeakable.")


def test_a_text_without_words_is_refused(worker):
    with pytest.raises(RuntimeError, match="nothing to speak"):
        speak(worker, text=" . ")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="on Windows 127.0.0.2 is the same address")
def test_it_listens_on_one_loopback_address_only(worker):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", worker.port), timeout=5)


def test_a_loading_model_is_waited_for(environment):
    flag = environment.model / "loading"
    flag.touch()
    with running_worker(environment) as address:
        assert read_health(address)["ready"] is False
        with pytest.raises(RuntimeError, match="still being loaded"):
            speak(address)
        with pytest.raises(Cancelled):
            wait_until_ready(address, raise_cancelled)
        assert wait_until_ready(address, lambda: flag.unlink(missing_ok=True))["engine"] == "CosyVoice 2 (CosyVoice2-0.5B)"


def test_a_refusal_arrives_in_words_while_a_long_voice_is_still_being_sent(environment):
    (environment.model / "loading").touch()
    with running_worker(environment) as address, pytest.raises(RuntimeError, match="refused: The model is still being loaded"):
        speak(address, reference_wav=bytes(40 * 2**20))


def raise_cancelled() -> None:
    raise Cancelled


# --- requests of others


def fields(**changes) -> bytes:
    request = {**REQUEST._asdict(), "reference_wav": base64.b64encode(REFERENCE).decode(), **changes}
    return json.dumps({name: value for name, value in request.items() if value is not None}).encode()


JSON = {"Content-Type": "application/json"}
REFUSED = {
    "other version": ("POST", "/v2/speech", JSON, fields(), 404, "version 1"),
    "other method": ("GET", "/v1/speech", {}, b"", 404, "no GET"),
    "foreign host": ("GET", "/v1/health", {"Host": "evil.example:8190"}, b"", 403, "evil.example"),
    "form of a web page": ("POST", "/v1/speech", {"Content-Type": "text/plain"}, fields(), 415, "application/json"),
    "no JSON": ("POST", "/v1/speech", JSON, b"{", 400, "not JSON"),
    "a list": ("POST", "/v1/speech", JSON, b"[]", 400, "field text"),
    "no seed": ("POST", "/v1/speech", JSON, fields(seed=None), 400, "field seed"),
    "speed as text": ("POST", "/v1/speech", JSON, fields(speed="1"), 400, "field speed"),
    "speed that is none": ("POST", "/v1/speech", JSON, fields(speed=math.nan), 400, "speed must be from"),
    "speed without end": ("POST", "/v1/speech", JSON, fields(speed=10**400), 400, "speed must be from"),
    "seed below zero": ("POST", "/v1/speech", JSON, fields(seed=-1), 400, "seed must be from"),
    "seed too large": ("POST", "/v1/speech", JSON, fields(seed=2**64), 400, "seed must be from"),
    "no base64": ("POST", "/v1/speech", JSON, fields(reference_wav="?"), 400, "reference_wav"),
    "too large": ("POST", "/v1/speech", {**JSON, "Content-Length": str(2**30)}, b"", 413, "at most"),
    "bad length": ("POST", "/v1/speech", {**JSON, "Content-Length": "x"}, b"", 400, "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_requests_are_refused(case, worker, environment):
    method, path, headers, body, status, reason = REFUSED[case]
    connection = http.client.HTTPConnection(*worker, timeout=10)
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    assert response.status == status
    assert reason in json.loads(response.read())["error"]
    assert environment.calls() == []


@pytest.mark.parametrize(("option", "message"), [("--model", "no cosyvoice2.yaml"), ("--cosyvoice", "no folder cosyvoice")])
def test_a_wrong_folder_is_said_before_anything_is_loaded(option, message, environment, tmp_path):
    options = {"--model": environment.model, "--cosyvoice": environment.cosyvoice, option: tmp_path}
    command = [environment.python, WORKER, *(str(part) for pair in options.items() for part in pair)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert message in result.stderr


def test_the_page_describes_the_protocol():
    page, source = PAGE.read_text(encoding="utf-8"), WORKER.read_text(encoding="utf-8")
    spec = importlib.util.spec_from_file_location("cosyvoice_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert re.findall(r"^\| `(\w+)` \| (?:string|number|integer)", page, re.MULTILINE) == list(module.FIELDS)
    assert {int(status) for status in re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)} == {
        200,
        *map(int, re.findall(r"Refusal\((\d+)", source)),
    }
    assert (module.SERVICE, module.PROTOCOL) == (speech_worker.SERVICE, speech_worker.PROTOCOL)
    assert f'"service": "{module.SERVICE}", "protocol": {module.PROTOCOL}' in page
    assert tuple(module.FIELDS) == SpeechRequest._fields


@pytest.fixture
def short_of_time():
    """A worker in this process that is not patient."""
    spec = importlib.util.spec_from_file_location("hostile_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Handler.timeout = module.REQUEST_S = 1.0
    with module.Server(("127.0.0.1", 0), module.Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield module, server.server_address
        server.shutdown()


def test_silent_connections_hold_no_threads_and_go(short_of_time):
    """Before, 300 of them held 300 threads for ever."""
    module, address = short_of_time
    before = threading.active_count()
    connections = [socket.create_connection(address) for _ in range(40)]
    time.sleep(0.3)
    assert threading.active_count() - before <= 2 * module.MAX_CONNECTIONS  # a thread and its deadline each
    time.sleep(1.5)
    assert threading.active_count() <= before
    for connection in connections:
        connection.close()
    assert read_health(speech_worker.Address(*address))["ready"] is False


def test_half_a_request_is_not_waited_for_and_a_large_one_not_read(short_of_time):
    module, address = short_of_time
    head = "POST /v1/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    module.Server.voice = object()
    for length, wanted in ((1000, b""), (module.MAX_REQUEST_BYTES + 1, b"413")):
        with socket.create_connection(address) as connection:
            connection.sendall(head.format(length).encode())
            connection.settimeout(5)
            assert wanted in connection.recv(1000)

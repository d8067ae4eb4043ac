"""Text in, talking video out: with espeak-ng, and with the worker in an environment of its own."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed, PromptInterrupted, PromptRefused
from wan_s2v_pack.cli.comfyui.server import free_port
from wan_s2v_pack.tests.fake_cosyvoice import SENTENCE_S, make_environment, running_worker
from wan_s2v_pack.wan_s2v_model.media.speech_worker import wait_until_ready

from .graphs import Prompt, add, find, inputs_of, quick_start

TEXT = "This is a test. It has two sentences."


def speech_graph(*, with_reference: bool = False, duration: float = 0.75, **inputs) -> Prompt:
    """The quick start with spoken text instead of a recording."""
    prompt = quick_start(duration=duration)
    inputs = {"text": TEXT, "voice": "espeak-ng", **inputs}
    if with_reference:
        inputs["reference_audio"] = [find(prompt, "LoadAudio"), 0]
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "WanS2VTextToSpeech", **inputs), 0]
    return prompt


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("worker"), "new")


@pytest.fixture(scope="module")
def worker(environment):
    with running_worker(environment) as address:
        wait_until_ready(address, lambda: None)
        yield address


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_text_becomes_a_video(renderer):
    video = renderer.render(speech_graph())
    assert video.num_frames == 12
    assert abs(video.sound).max() > 0.05


def test_cosyvoice_speaks_in_its_own_environment(renderer, worker, environment):
    duration = 2 * SENTENCE_S
    prompt = speech_graph(
        duration=0.0, voice="cosyvoice", worker_address=str(worker), with_reference=True, reference_text="Known words", seed=3
    )
    video = renderer.render(prompt)
    assert video.num_frames == round(duration * 16)
    calls = environment.calls()
    assert [call["sentence"] for call in calls] == ["This is a test", "It has two sentences"]
    assert calls[0]["prompt_text"] == "Known words"
    assert calls[0]["prefix"] == str(environment.python.parents[1])
    renderer.client.run(prompt)
    assert environment.calls() == calls  # an unchanged text is not spoken again


def test_cancel_while_it_speaks(renderer, worker, environment):
    environment.forget_calls()
    prompt = speech_graph(voice="cosyvoice", text="slow. " * 100, worker_address=str(worker), with_reference=True)
    prompt_id = renderer.client.queue(prompt)
    threading.Thread(target=cancel_when_it_speaks, args=(renderer.client, prompt_id, environment), daemon=True).start()
    with pytest.raises(PromptInterrupted):
        renderer.client.wait(prompt_id, timeout_s=20)
    assert len(environment.calls()) < 50


def cancel_when_it_speaks(client, prompt_id, environment):
    while not environment.calls():
        time.sleep(0.05)
    client.interrupt(prompt_id)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": " \n"}, "text is empty"),
        ({"voice": "cosyvoice", "worker_address": "192.168.0.2:8190"}, "must be on this machine"),
        ({"voice": "cosyvoice", "worker_address": "8190"}, "must be host:port"),
        ({"voice": "none"}, "voice must be espeak-ng or cosyvoice"),
        ({"speed": 9.0}, "speed"),
    ],
)
def test_refused_when_queued(changes, message, renderer):
    with pytest.raises(PromptRefused, match=message) as caught:
        renderer.client.run(speech_graph(**changes))
    assert caught.value.node_type == "WanS2VTextToSpeech"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs reference_audio"),
        ({"with_reference": True, "worker_address": f"127.0.0.1:{free_port()}"}, "No speech worker answers at 127.0.0.1"),
    ],
)
def test_cosyvoice_without_what_it_needs(changes, message, renderer):
    with pytest.raises(PromptFailed, match=message) as caught:
        renderer.client.run(speech_graph(voice="cosyvoice", **changes))
    assert caught.value.node_type == "WanS2VTextToSpeech"

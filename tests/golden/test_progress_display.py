"""What the node shows while it samples: a bar, a line of text, and nothing where no server runs."""

import sys
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, pack_module

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def display():
    try:
        return pack_module("wan_s2v_model.comfy_bridge.display")
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def node(display):
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext(prompt_id="p", node_id="12"):
        yield


def serve(monkeypatch, **abilities):
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(**abilities)))
    monkeypatch.setitem(sys.modules, "server", server)


def test_text_goes_to_the_running_node(display, node, monkeypatch):
    sent = []
    serve(monkeypatch, send_progress_text=lambda text, node_id: sent.append((text, node_id)))
    display.text_display()("clip 0 (1 of 2)")
    assert sent == [("clip 0 (1 of 2)", "12")]


def test_nothing_is_sent_without_a_server(display, node, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    display.text_display()("clip 0 (1 of 2)")
    serve(monkeypatch)  # of a version that shows no text
    display.text_display()("clip 0 (1 of 2)")


def test_bar_counts_the_steps_of_all_clips(display, node, monkeypatch):
    import comfy.utils

    sent, moved = [], []
    serve(monkeypatch, send_progress_text=lambda text, node_id: sent.append(text))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: moved.append((value, total)))
    progress = pack_module("wan_s2v_model.sampling.progress").Progress(3, 10)
    report = display.step_reporter(SimpleNamespace(load_device=torch.device("cpu")), progress)
    report(1, torch.zeros(1, 16, 2, 4, 4))
    report(30, torch.zeros(1, 16, 2, 4, 4))
    assert moved == [(1, 30), (30, 30)]
    assert [text.split(",")[:2] for text in sent] == [["clip 0 (1 of 3)", " step 1/10"], ["clip 2 (3 of 3)", " step 10/10"]]

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
    display.text_display()("clip 1 of 2")
    assert sent == [("clip 1 of 2", "12")]


def test_nothing_is_sent_without_a_server(display, node, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    display.text_display()("clip 1 of 2")
    serve(monkeypatch)  # of a version that shows no text
    display.text_display()("clip 1 of 2")


@pytest.fixture
def shown(display, node, monkeypatch):
    """Texts on the node, and values of the bar."""
    import comfy.utils

    sent, moved = [], []
    serve(monkeypatch, send_progress_text=lambda text, node_id: sent.append(text))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: moved.append((value, total)))
    return sent, moved


@pytest.fixture
def run(display):
    progress = pack_module("wan_s2v_model.sampling.progress").Progress(3, 10)
    return display.RunDisplay(SimpleNamespace(load_device=torch.device("cpu")), progress, num_frames=113)


X0 = torch.zeros(1, 16, 2, 4, 4)


def test_bar_counts_the_steps_of_all_clips(shown, run):
    """All of them: ComfyUI's bar leaves out steps of less than half a percent, so a long run stood still for whoever listened."""
    sent, moved = shown
    with run:
        run.begin(0)
        run.step(1, X0)
        run.step(10, X0)
        run.begin(1)
        run.step(30, X0)
    assert moved == [(0, 30), (1, 30), (10, 30), (10, 30), (30, 30)]
    assert [text.split(",")[:2] for text in sent[:-1]] == [
        ["clip 1 of 3", " step 0/10"],
        ["clip 1 of 3", " step 1/10"],
        ["clip 1 of 3", " decoding"],
        ["clip 2 of 3", " step 0/10"],
        ["clip 3 of 3", " decoding"],
    ]


def test_a_finished_node_says_what_was_made(shown, run):
    """It went on to say the time left of its last step."""
    with run:
        run.step(29, X0)
    assert shown[0][-1] == "113 frames, 7.06 s, made in 0:00"


def test_a_stopped_node_says_where(shown, run):
    run.step(13, X0)
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert shown[0][-1] == "stopped at clip 2 of 3, step 3/10, after 0:00"

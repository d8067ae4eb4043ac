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
    serve(monkeypatch, client_id="me", send_progress_text=lambda *message: sent.append(message))
    display.text_display()("clip 1 of 2")
    assert sent == [("clip 1 of 2", "12", "me")]


def test_text_and_video_go_to_the_subgraph_nodes_around_it_too(display, monkeypatch, tmp_path):
    """On the canvas there is nothing but the outermost of them."""
    from comfy_execution.utils import CurrentNodeContext

    texts, told = [], []
    serve(
        monkeypatch,
        client_id="me",
        send_progress_text=lambda text, node_id, client_id: texts.append((node_id, client_id)),
        send_sync=lambda event, data, client_id: told.append((event, data["node"], data["display_node"], client_id)),
    )
    monkeypatch.setattr(display.folder_paths, "get_output_directory", lambda: str(tmp_path))
    with CurrentNodeContext(prompt_id="p", node_id="51:7:11"):
        display.text_display()("clip 1 of 2")
        display.file_shower()(tmp_path / "in_progress.mp4")
    around = ["51:7:11", "51:7", "51"]
    assert texts == [(node_id, "me") for node_id in around]
    assert told == [("executed", node_id, node_id, "me") for node_id in around]


def test_nobody_else_is_told(display, node, monkeypatch):
    """A prompt without a client: ComfyUI would send the text to every browser that is open."""
    sent = []
    serve(monkeypatch, client_id=None, send_progress_text=lambda *message: sent.append(message))
    display.text_display()("clip 1 of 2")
    assert sent == []


def test_nothing_is_sent_without_a_server(display, node, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    display.text_display()("clip 1 of 2")


@pytest.fixture
def shown(display, node, monkeypatch):
    """Texts on the node, and values of the bar."""
    import comfy.utils

    sent, moved = [], []
    serve(monkeypatch, client_id="me", send_progress_text=lambda text, node_id, client_id: sent.append(text))
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


def test_work_beside_the_steps_is_named(shown, run):
    """Encoding for the next clip was called decoding, and so was whatever comes before the first step."""
    with run:
        assert run.during("encoding", lambda number, *, more: number + more)(1, more=2) == 3
        run.step(10, X0)
        run.during("decoding", lambda: None)()
        run.during("encoding", lambda: None)()
    assert [text.split(", ")[1] for text in shown[0][:-1]] == ["encoding", "decoding", "decoding", "encoding"]


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

"""What comes over a link is held to the limits of the widgets in every node, before anything else happens."""

import asyncio
import math
import re

import pytest
from wan_s2v_pack.tests.golden.comfyui import pack_module

pytestmark = pytest.mark.comfy

FILE = "model.safetensors"


@pytest.fixture
def nodes(bridge, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: [FILE])
    monkeypatch.setattr(folder_paths, "get_full_path", lambda folder, name: f"/models/{folder}/{name}")
    return asyncio.run(pack_module("nodes").WanS2VExtension().get_node_list())


def io():
    from comfy_api.latest import io

    return io


def bad_values(widget):
    if isinstance(widget, io().Int.Input):
        return [widget.min - 1, widget.max + 1, "4", 4.5, None]
    if isinstance(widget, io().Float.Input):
        return [widget.min - 1, widget.max + 1, float("nan"), "4", None]
    if isinstance(widget, io().Combo.Input):
        return ["something else", None]
    if isinstance(widget, io().DynamicCombo.Input):
        return [None]
    return [4, None] if isinstance(widget, io().String.Input) else []


def good_value(widget):
    """Its default; what has no widget counts as left free, or what is connected would be looked at before the widgets behind it."""
    if isinstance(widget, io().Combo.Input):
        return widget.options[0]
    if isinstance(widget, io().DynamicCombo.Input):
        return {widget.id: widget.options[0].key}
    return widget.default if isinstance(widget, io().WidgetInput) else pack_module("nodes.inputs").UNCONNECTED


@pytest.mark.parametrize("name", ["extra", "self", "cls", "", "a\ud800", "mask_9", "unique_id"])
def test_a_link_into_an_input_that_there_is_not_is_refused_in_words(nodes, name):
    """ComfyUI passes it on, and leaves out literals alone."""
    for node in nodes:
        values = {widget.id: good_value(widget) for widget in node.define_schema().inputs}
        with pytest.raises(ValueError, match=r"has no input .*, and something is connected to it") as caught:
            node.execute(**values, **{name: None})
        assert node.define_schema().display_name in str(caught.value)
        str(caught.value).encode()


def test_bad_values_are_refused_with_the_name_of_the_input(nodes):
    tried = 0
    for node in nodes:
        widgets = node.define_schema().inputs
        values = {widget.id: good_value(widget) for widget in widgets}
        for widget in widgets:
            for value in bad_values(widget):
                with pytest.raises(ValueError, match=re.escape(f"; got {value!r}.")) as caught:
                    node.execute(**{**values, widget.id: value})
                assert str(caught.value).startswith(f"{widget.id} must be ")
                tried += 1
    assert tried > 100


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"size": "540P"}, "size must be one of 480P, 720P, 1024x704, custom, chosen on the node itself; got '540P'."),
        ({"size": "custom", "width": 4096, "height": 480}, "width must be a whole number from 64 to 2048; got 4096."),
        ({"size": "custom", "width": 832}, "height must be a whole number from 64 to 2048; got None."),
    ],
)
def test_a_choice_with_inputs_of_its_own(size, message, nodes):
    (prepare,) = (node for node in nodes if node.__name__ == "WanS2VPrepare")
    values = {widget.id: good_value(widget) for widget in prepare.define_schema().inputs}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prepare.execute(**{**values, "size": size})


def test_every_socket_of_ours_says_what_fits(nodes):
    """An object of another pack in one that is not listed ends in an error of Python."""
    names = {str(widget.get_io_type()) for node in nodes for widget in node.define_schema().inputs}
    assert {name for name in names if name.startswith("WAN_S2V_")} <= pack_module("nodes.sockets").SOCKETS.keys()


def test_a_run_name_that_is_too_long_for_a_disk(bridge):
    problem = pack_module("nodes.inputs").run_name_problem
    assert problem("\N{CJK UNIFIED IDEOGRAPH-8A9E}" * 100) == "run_name has 300 bytes, and a name on a disk at most 255. Shorten it."
    assert problem("\N{CJK UNIFIED IDEOGRAPH-8A9E}" * 80) is None


def test_a_video_that_cannot_be_read_is_said_at_the_pose(bridge, tmp_path):
    from comfy_api.latest import InputImpl

    (tmp_path / "pose.mp4").write_bytes(b"no video")
    video = InputImpl.VideoFromFile(str(tmp_path / "pose.mp4"))
    with pytest.raises(ValueError, match="cannot be read"):
        pack_module("nodes.directing").WanS2VPose.execute(1.0, "hold", 0.0, 1.0, 16.0, video=video)


def test_what_a_linked_name_stands_for_is_always_read_again(bridge):
    assert math.isnan(pack_module("nodes.video").WanS2VTail.fingerprint_inputs(run_name=None))
    assert math.isnan(pack_module("nodes.reports").WanS2VSyncReport.fingerprint_inputs(path=None))
    assert pack_module("nodes.reports").WanS2VSyncReport.fingerprint_inputs(extra=None) == ""


def test_sound_of_a_silent_video(bridge):
    with pytest.raises(ValueError, match="There is no audio: the video that it comes from has no sound"):
        pack_module("wan_s2v_model.audio.selection").select("audio", None, 0.0, 0.0)

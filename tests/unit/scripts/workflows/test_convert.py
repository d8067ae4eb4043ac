"""Workflow conversion; the whole of it is compared with the front end in tests/browser."""

import pytest
from wan_s2v_pack.scripts.workflows.convert import ConversionError, ui_to_api

OBJECT_INFO = {
    "Source": {"display_name": "Source", "input": {"required": {"file": [["a.png"], {"image_upload": True}]}}},
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "hidden_socket": ["FLOAT", {"forceInput": True}],
            },
            "optional": {"note": ["STRING", {"default": "none"}]},
        },
    },
    "Save": {
        "display_name": "Save",
        "input": {
            "required": {
                "codec": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {"required": {}}},
                            {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}},
                        ]
                    },
                ],
                "prefix": ["STRING", {}],
            }
        },
    },
}


def convert(*nodes, links=()):
    return ui_to_api({"nodes": list(nodes), "links": list(links)}, OBJECT_INFO)


def test_widgets_links_and_companion_widgets():
    source = {"id": 1, "type": "Source", "inputs": [], "widgets_values": ["a.png", "image"]}
    sampler = {"id": 2, "type": "Sampler", "inputs": [{"name": "model", "link": 7}], "widgets_values": [5, "randomize", 30]}
    prompt = convert(source, sampler, links=[[7, 1, 0, 2, 0, "MODEL"]])
    assert prompt["1"]["inputs"] == {"file": "a.png"}
    assert prompt["2"]["inputs"] == {"seed": 5, "steps": 30, "note": "none", "model": ["1", 0]}


def test_a_linked_widget_keeps_its_place_in_the_values():
    sampler = {"id": 2, "type": "Sampler", "inputs": [{"name": "steps", "link": 1}], "widgets_values": [5, "fixed", 30, "text"]}
    prompt = convert({"id": 9, "type": "Source"}, sampler, links=[[1, 9, 3, 2, 0, "INT"]])
    assert prompt["2"]["inputs"] == {"seed": 5, "steps": ["9", 3], "note": "text"}


@pytest.mark.parametrize(
    ("values", "inputs"),
    [(["auto", "x"], {"codec": "auto", "prefix": "x"}), (["h264", 10.0, "x"], {"codec": "h264", "codec.crf": 10.0, "prefix": "x"})],
)
def test_nested_inputs_of_the_chosen_option(values, inputs):
    assert convert({"id": 1, "type": "Save", "widgets_values": values})["1"]["inputs"] == inputs


def test_notes_are_left_out_and_titles_kept():
    note = {"id": 1, "type": "MarkdownNote", "widgets_values": ["text"]}
    titled = {"id": 2, "type": "Source", "title": "Portrait", "widgets_values": ["a.png"]}
    prompt = convert(note, titled)
    assert list(prompt) == ["2"]
    assert prompt["2"]["_meta"] == {"title": "Portrait"}


@pytest.mark.parametrize(
    ("node", "message"),
    [({"id": 1, "type": "Unknown"}, "no node Unknown"), ({"id": 1, "type": "Source", "mode": 4}, "muted or bypassed")],
)
def test_what_cannot_be_converted(node, message):
    with pytest.raises(ConversionError, match=message):
        convert(node)


def sampler_subgraph(widgets_values, model_link=3):
    """A sampler in a subgraph (id 5) whose sockets are model and steps; its output goes into the Save of the workflow."""
    inputs = [{"name": "model", "link": 1}, {"name": "steps", "widget": {"name": "steps"}, "link": 2}]
    links = [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 0},
        {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 2, "target_slot": 1},
        {"id": 3, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0},
    ]
    inner = {"id": 2, "type": "Sampler", "inputs": inputs, "widgets_values": [5, "fixed", 30, "text"]}
    sockets = [{"name": "model", "link": model_link}, {"name": "speed", "widget": {"name": "speed"}, "link": None}]
    nodes = [
        {"id": 1, "type": "Source", "widgets_values": ["a.png"]},
        {"id": 5, "type": "subgraph", "inputs": sockets, "widgets_values": widgets_values},
        {"id": 6, "type": "Save", "inputs": [{"name": "clips", "link": 4}], "widgets_values": ["auto", "x"]},
    ]
    definitions = {"subgraphs": [{"id": "subgraph", "nodes": [inner], "links": links}]}
    return {"nodes": nodes, "links": [[3, 1, 0, 5, 0, "MODEL"], [4, 5, 0, 6, 0, "CLIPS"]], "definitions": definitions}


@pytest.mark.parametrize(
    ("widgets_values", "model_link", "inputs"),
    [
        ([], 3, {"seed": 5, "steps": 30, "note": "text", "model": ["1", 0]}),
        ([7], 3, {"seed": 5, "steps": 7, "note": "text", "model": ["1", 0]}),
        ([], None, {"seed": 5, "steps": 30, "note": "text"}),
    ],
    ids=["values of the inner node", "values of the outer node", "not connected"],
)
def test_subgraph(widgets_values, model_link, inputs):
    prompt = ui_to_api(sampler_subgraph(widgets_values, model_link), OBJECT_INFO)
    assert sorted(prompt) == ["1", "5:2", "6"]
    assert prompt["5:2"]["inputs"] == inputs
    assert prompt["6"]["inputs"]["clips"] == ["5:2", 0]


def test_subgraph_in_a_subgraph():
    outer = sampler_subgraph([7])
    nested = {"id": "nested", "nodes": outer["nodes"], "links": outer["links"]}
    definitions = {"subgraphs": [nested, *outer["definitions"]["subgraphs"]]}
    prompt = ui_to_api({"nodes": [{"id": 8, "type": "nested"}], "links": [], "definitions": definitions}, OBJECT_INFO)
    assert prompt["8:5:2"]["inputs"] == {"seed": 5, "steps": 7, "note": "text", "model": ["8:1", 0]}
    assert prompt["8:6"]["inputs"]["clips"] == ["8:5:2", 0]

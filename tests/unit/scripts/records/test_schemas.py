"""Which changes of a node break saved graphs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from wan_s2v_pack.scripts.records.schemas import breaking_changes, schema_of, snapshot_text

INFO: dict[str, Any] = {
    "input": {
        "required": {
            "model": ["MODEL", {"tooltip": "..."}],
            "seed": ["INT", {"default": 0, "min": 0, "max": 100, "control_after_generate": True}],
            "mode": ["COMBO", {"options": ["a", "b"], "default": "a"}],
            "file_name": [["mine.safetensors"], {}],
        },
        "optional": {"strength": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0}]},
    },
    "output": ["IMAGE", "AUDIO"],
    "output_is_list": [False, False],
}


def changed(change) -> list[str]:
    """What a change of INFO breaks."""
    info = copy.deepcopy(INFO)
    change(info)
    return breaking_changes({"Node": schema_of(INFO)}, {"Node": schema_of(info)})


def required(info):
    return info["input"]["required"]


def optional(info):
    return info["input"]["optional"]


def rename(group, old, new):
    items = [(new if name == old else name, spec) for name, spec in group.items()]
    group.clear()
    group.update(items)


HARMLESS = {
    "nothing": lambda info: None,
    "tooltip": lambda info: required(info)["model"][1].update(tooltip="other"),
    "new optional input": lambda info: optional(info).update(more=["INT", {"default": 1}]),
    "new output": lambda info: (info["output"].append("STRING"), info["output_is_list"].append(False)),
    "new choice": lambda info: required(info)["mode"][1]["options"].append("c"),
    "wider range": lambda info: required(info)["seed"][1].update(max=200),
    "other default of a required input": lambda info: required(info)["mode"][1].update(default="b"),
    "other files": lambda info: required(info).update(file_name=[["yours.safetensors"], {}]),
}
BREAKING = {
    "removed input": (lambda info: required(info).pop("model"), "rename, remove and move none"),
    "renamed input": (lambda info: rename(required(info), "mode", "kind"), "rename, remove and move none"),
    "moved input": (lambda info: required(info).update(model=required(info).pop("model")), "rename, remove and move none"),
    "input made optional": (lambda info: optional(info).update(mode=required(info).pop("mode")), "required inputs were"),
    "new required input": (lambda info: required(info).update(more=["INT", {}]), "new required inputs ['more']"),
    "new optional input in front": (
        lambda info: (rename(optional(info), "strength", "x"), optional(info).update(strength=["FLOAT", {}])),
        "optional inputs were",
    ),
    "other type": (lambda info: required(info).update(model=["VAE", {}]), "type of model was MODEL, is VAE"),
    "lost choice": (lambda info: required(info)["mode"][1]["options"].remove("b"), "lost the choices ['b']"),
    "smaller range": (lambda info: required(info)["seed"][1].update(max=50), "0 to 100 became 0 to 50"),
    "new lower bound": (lambda info: optional(info)["strength"][1].update(min=0.1), "fewer values"),
    "seed without its second widget": (
        lambda info: required(info)["seed"][1].pop("control_after_generate"),
        "control_after_generate of seed",
    ),
    "other default of an optional input": (
        lambda info: optional(info)["strength"][1].update(default=0.5),
        "default of the optional strength",
    ),
    "other output": (lambda info: info["output"].reverse(), "outputs were"),
    "list output": (lambda info: info.update(output_is_list=[True, False]), "outputs were"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name):
    assert changed(HARMLESS[name]) == []


@pytest.mark.parametrize("name", BREAKING)
def test_breaking(name):
    change, message = BREAKING[name]
    (found,) = changed(change)[:1]
    assert found.startswith("Node: ")
    assert message in found


def test_removed_node():
    assert breaking_changes({"Node": schema_of(INFO)}, {}) == ["Node: the node is gone"]
    assert breaking_changes({}, {"Node": schema_of(INFO)}) == []


def test_snapshot_round_trip():
    text = snapshot_text({"Node": schema_of(INFO)})
    assert json.loads(text) == json.loads(json.dumps({"Node": schema_of(INFO)}))
    assert "tooltip" not in text


def test_a_choice_that_brings_inputs():
    """Its inputs are recorded with it; saved graphs keep their values by position, too."""
    width = {"required": {"width": ["INT", {"default": 832, "min": 64, "max": 2048}]}}
    size = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "480P", "inputs": {}}, {"key": "custom", "inputs": width}]}]
    (entry,) = schema_of({"input": {"required": {"size": size}}, "output": [], "output_is_list": []})["required"]
    brought = {"key": "custom", "inputs": [{"name": "width", "type": "INT", "default": 832, "min": 64, "max": 2048}]}
    assert entry == {"name": "size", "type": "COMFY_DYNAMICCOMBO_V3", "choices": ["480P", brought], "default": "480P"}

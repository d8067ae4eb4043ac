"""Turn a workflow as the canvas saves it into the API format that the queue takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .subgraphs import Source, Value, flat_nodes

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
NOTE_TYPES = {"Note", "MarkdownNote"}
ACTIVE_MODE = 0
UPLOAD_OPTIONS = ("image_upload", "audio_upload", "video_upload")


class ConversionError(ValueError):
    """The workflow uses something this converter or the server does not know."""


def ui_to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a workflow from UI to API format.

    Args:
        workflow: UI format, version 0.4 (links as lists).
        object_info: the server's answer to /object_info.
    Returns:
        Node id -> {"class_type", "inputs"}; notes are left out, and the nodes of subgraphs have ids such as "5:3".
    """
    prompt = {}
    for node_id, node, given in flat_nodes(workflow):
        if node["type"] in NOTE_TYPES:
            continue
        if node.get("mode", ACTIVE_MODE) != ACTIVE_MODE:
            raise ConversionError(f"Node {node_id} ({node['type']}) is muted or bypassed; activate or delete it before converting.")
        if node["type"] not in object_info:
            raise ConversionError(f"The server has no node {node['type']} (node {node_id}). Install the pack that brings it.")
        prompt[node_id] = _convert_node(node, object_info[node["type"]], given)
    return prompt


def _convert_node(node: Mapping[str, Any], info: Mapping[str, Any], given: Mapping[str, Source | Value]) -> dict[str, Any]:
    inputs = dict(_widget_inputs("", info["input"], iter(node.get("widgets_values") or [])))
    for name, origin in given.items():
        inputs[name] = origin.value if isinstance(origin, Value) else [origin.node_id, origin.slot]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node.get("title") or info["display_name"]}}


def _widget_inputs(prefix: str, groups: Mapping[str, Any], values: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """Yield (input name, value) in the order in which the canvas stores widget values."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in groups.get(group, {}).items():
            options = rest[0] if rest else {}
            if not is_widget(kind, options):
                continue
            value = next(values, options.get("default"))
            yield prefix + name, value
            for _ in range(companions(name, kind, options)):
                next(values, None)
            if kind == DYNAMIC_COMBO:
                chosen = next(option for option in options["options"] if option["key"] == value)
                yield from _widget_inputs(f"{prefix}{name}.", chosen["inputs"], values)


def is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    """Whether the canvas shows an input of this type as a widget, with a value of its own."""
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or kind == DYNAMIC_COMBO


def companions(name: str, kind: Any, options: Mapping[str, Any]) -> int:
    """How many widgets the canvas adds behind this one: 'control after generate' or an upload button."""
    by_name = kind == "INT" and name in ("seed", "noise_seed")
    return int(bool(options.get("control_after_generate") or by_name or any(options.get(option) for option in UPLOAD_OPTIONS)))

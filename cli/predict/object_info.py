"""What a server says of its nodes (`/object_info`): which there are, their inputs, and what these offer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..command import command

GPUS = "MultiGPU_WorkUnits"  # a node of ComfyUI
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # brings inputs of its own with some of its choices


class PromptError(Exception):
    """What was asked for cannot be queued on this server, with what to do."""


class PackMissing(PromptError):
    """The server runs without this pack, or with an older one."""


def require_nodes(prompt: Mapping[str, Any], object_info: Mapping[str, Any]) -> None:
    missing = sorted({node["class_type"] for node in prompt.values()} - set(object_info))
    if missing:
        raise PackMissing(
            f"ComfyUI has no node {', '.join(missing)}. Is this pack in its custom_nodes? Its log says whether it was loaded, "
            f"`{command('doctor')}` what is wrong."
        )


def require_fitting_values(prompt: Mapping[str, Any], object_info: Mapping[str, Any]) -> None:
    """Raise PromptError for a number that its input does not take, NaN too, and for a choice with inputs of its own that there is not."""
    for node in prompt.values():
        specs = dict(all_inputs(object_info.get(node["class_type"], {"input": {}})["input"]))
        for name, value in node["inputs"].items():
            kind, *options = specs.get(name, ("",))
            problem = _problem(kind, options[0] if options else {}, value)
            if problem:
                raise PromptError(f"{node['class_type']}.{name} must be {problem}; got {value}.")


def _problem(kind: Any, options: Mapping[str, Any], value: Any) -> str | None:
    """What a value must be, None if it is that already or a link."""
    if kind in ("INT", "FLOAT") and isinstance(value, int | float):
        low, high = options.get("min", -math.inf), options.get("max", math.inf)
        return None if low <= value <= high and math.isfinite(value) else f"a number from {low} to {high}"
    if kind == DYNAMIC_COMBO and isinstance(value, str):
        keys = [option["key"] for option in options["options"]]
        return None if value in keys else f"one of {', '.join(keys)}"
    return None


def choices(object_info: Mapping[str, Any], node_type: str, name: str) -> list[str]:
    """What a combo input of a node offers."""
    kind, *options = input_spec(object_info, node_type, name)
    return kind if isinstance(kind, list) else options[0]["options"]


def input_spec(object_info: Mapping[str, Any], node_type: str, name: str) -> Sequence[Any]:
    """Type and options of an input, as the server tells them."""
    if node_type not in object_info:
        raise PackMissing(f"ComfyUI has no node {node_type}. Update {'ComfyUI' if node_type == GPUS else 'this pack'} there.")
    known = dict(all_inputs(object_info[node_type]["input"]))
    if name not in known:
        raise PromptError(f"{node_type} has no input {name} on this server; it has {', '.join(known)}.")
    return known[name]


def all_inputs(groups: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Sequence[Any]]]:
    """Name, and type and options, of every input; those that come with a choice are named behind it: size.width."""
    for name, spec in {**groups.get("required", {}), **groups.get("optional", {})}.items():
        yield prefix + name, spec
        for option in spec[1]["options"] if spec[0] == DYNAMIC_COMBO else ():
            yield from all_inputs(option["inputs"], f"{prefix}{name}.")

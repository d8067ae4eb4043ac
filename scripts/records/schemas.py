"""What saved graphs depend on, out of ComfyUI's description of the nodes, and the rules by which it may change.

A saved workflow keeps widgets by their position, links by the index of the socket; a prompt in API format keeps inputs by their name and
leaves out optional ones. So nodes, inputs and outputs are only ever added, at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

SNAPSHOT = Path(__file__).resolve().parents[2] / "tests" / "integration" / "schemas.json"
GROUPS = ("required", "optional")
KEPT_OPTIONS = ("default", "min", "max", "control_after_generate")


def schemas_of(object_info: dict[str, Any], module: str) -> dict[str, Schema]:
    """Node id -> what saved graphs depend on, of one pack."""
    return {name: schema_of(info) for name, info in sorted(object_info.items()) if info["python_module"] == module}


def schema_of(info: dict[str, Any]) -> Schema:
    inputs = {group: [input_of(name, *spec) for name, spec in info["input"].get(group, {}).items()] for group in GROUPS}
    return {**inputs, "outputs": [list(pair) for pair in zip(info["output"], info["output_is_list"], strict=True)]}


def input_of(name: str, kind: Any, options: dict[str, Any] | None = None) -> Schema:
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options")
    entry: Schema = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind}
    if choices and not is_file_list(name):
        entry["choices"] = [choice_of(choice) for choice in choices]
    if choices and isinstance(choices[0], dict):  # a dynamic combo begins with its first choice
        entry["default"] = choices[0]["key"]
    if not is_file_list(name):
        entry |= {key: options[key] for key in KEPT_OPTIONS if options.get(key) is not None}
    return entry


def choice_of(choice: str | dict[str, Any]) -> str | Schema:
    """A choice; of a dynamic combo with the inputs that it brings, if any."""
    if isinstance(choice, str):
        return choice
    brought = [input_of(name, *spec) for group in GROUPS for name, spec in choice["inputs"].get(group, {}).items()]
    return {"key": choice["key"], "inputs": brought} if brought else choice["key"]


def is_file_list(name: str) -> bool:
    """Choices of these are the user's files."""
    return name.endswith("_name") and name != "run_name"


def breaking_changes(old: dict[str, Schema], new: dict[str, Schema]) -> list[str]:
    """What would break a graph saved with `old`, one line each."""
    return [f"{node}: {change}" for node, schema in old.items() for change in node_changes(schema, new.get(node))]


def node_changes(old: Schema, new: Schema | None) -> Iterator[str]:
    if new is None:
        yield "the node is gone"
        return
    for group in GROUPS:
        yield from group_changes(group, old[group], new[group])
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        yield f"outputs were {old['outputs']}, are {new['outputs']}"


def group_changes(group: str, old: list[Schema], new: list[Schema]) -> Iterator[str]:
    names, new_names = ([item["name"] for item in items] for items in (old, new))
    if new_names[: len(names)] != names:
        yield f"{group} inputs were {names}, are {new_names}: rename, remove and move none, add at the end"
    elif group == "required" and len(new) > len(old):
        yield f"new required inputs {new_names[len(names) :]}: make them optional"
    else:
        for before, after in zip(old, new, strict=False):
            yield from input_changes(group, before, after)


def input_changes(group: str, old: Schema, new: Schema) -> Iterator[str]:
    for key in ("type", "control_after_generate"):
        if bool(old.get(key)) != bool(new.get(key)) or (key == "type" and old[key] != new[key]):
            yield f"{key} of {old['name']} was {old.get(key)}, is {new.get(key)}"
    if group == "optional" and old.get("default") != new.get("default"):  # a prompt may leave it out
        yield f"default of the optional {old['name']} was {old.get('default')}, is {new.get('default')}"
    if missing := [choice for choice in old.get("choices", []) if choice not in new.get("choices", [])]:
        yield f"{old['name']} lost the choices {missing}"
    if new.get("min", float("-inf")) > old.get("min", float("-inf")) or new.get("max", float("inf")) < old.get("max", float("inf")):
        yield f"{old['name']} takes fewer values: {old.get('min')} to {old.get('max')} became {new.get('min')} to {new.get('max')}"


def read_snapshot() -> dict[str, Schema]:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}


def snapshot_text(schemas: dict[str, Schema]) -> str:
    """One line per input, so that a change shows as one."""
    nodes = [f"{json.dumps(name)}: {{{_lines(schema)}\n}}" for name, schema in schemas.items()]
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _lines(schema: Schema) -> str:
    groups = (f'\n "{group}": [' + ",".join(f"\n  {json.dumps(item)}" for item in items) + "]" for group, items in schema.items())
    return ",".join(groups)

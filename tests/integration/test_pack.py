"""The pack as ComfyUI's own loader sees it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.records.schemas import read_snapshot

ROOT = Path(__file__).resolve().parents[2]
NODE_IDS = set(read_snapshot())


@pytest.fixture
def our_nodes(client):
    return {name: info for name, info in client.object_info().items() if info["python_module"] == "custom_nodes.wan_s2v"}


def node_classes() -> dict[str, ast.ClassDef]:
    """Node id -> class definition, found the way ComfyUI-Manager's scanner does: literal ids, direct base class."""
    classes = {}
    for path in (ROOT / "nodes").glob("*.py"):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in item.bases):
                classes[_literal_id(item)] = item
    return classes


def _literal_id(definition: ast.ClassDef) -> str:
    calls = (item for item in ast.walk(definition) if isinstance(item, ast.Call) and ast.unparse(item.func) == "io.Schema")
    return next(keyword.value.value for call in calls for keyword in call.keywords if keyword.arg == "node_id")


def test_loads_without_a_warning(server):
    startup = server.log_text().split("Starting server")[0]
    assert "IMPORT FAILED" not in startup
    assert "Traceback" not in startup
    complaints = [line for line in startup.splitlines() if "WARNING" in line or "ERROR" in line]
    assert [line for line in complaints if "s2v" in line.lower()] == []


def test_all_nodes_are_there(our_nodes):
    assert set(our_nodes) == NODE_IDS


def test_manager_finds_every_node_in_the_source():
    assert set(node_classes()) == NODE_IDS


def test_every_node_has_a_description_and_the_category(our_nodes):
    for name, info in our_nodes.items():
        assert info["description"].strip(), name
        assert info["category"].startswith("wan s2v/"), name


def test_every_input_and_output_has_a_tooltip(our_nodes):
    missing = [
        f"{name}.{socket}"
        for name, info in our_nodes.items()
        for group in ("required", "optional")
        for socket, (_, *options) in info["input"].get(group, {}).items()
        if not (options and options[0].get("tooltip"))
    ]
    missing += [
        f"{name} output {title}"
        for name, info in our_nodes.items()
        for title, tooltip in zip(info["output_name"], info["output_tooltips"], strict=True)
        if not tooltip
    ]
    assert missing == []


def test_schema_inputs_are_the_parameters_of_execute(our_nodes):
    for name, definition in node_classes().items():
        functions = (item for item in definition.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
        (execute,) = (function for function in functions if function.name == "execute")
        parameters = {argument.arg for argument in [*execute.args.args, *execute.args.kwonlyargs]} - {"cls"}
        groups = our_nodes[name]["input"]
        inputs = {*groups.get("required", {}), *groups.get("optional", {})}
        assert parameters <= inputs if execute.args.kwarg else parameters == inputs, name

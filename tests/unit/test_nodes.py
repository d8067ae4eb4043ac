"""Node files hold node classes: what a node does stands below, so that `execute` reads in one screen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"inputs"}  # checks for all nodes
NODE_FILES = [path for path in sorted((ROOT / "nodes").glob("*.py")) if path.stem not in {"__init__", "sockets", *HELPERS}]
SOURCES = [path for folder in ("nodes", "wan_s2v_model") for path in sorted((ROOT / folder).rglob("*.py"))]
BODY_LINES = 30  # of `execute`, below its signature
HELPER_LINES = 8
POSITIONAL = 8  # arguments of a call, that a reader can still tell apart


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function):
    return function.body[-1].end_lineno - function.body[0].lineno + 1


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_execute_reads_in_one_screen(path):
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef) and node.name == "execute"]
    assert functions
    assert {function.lineno: body_lines(function) for function in functions if body_lines(function) > BODY_LINES} == {}


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.stem)
def test_beside_the_nodes_stand_only_small_functions(path):
    others = [node for node in parsed(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_node(node)]
    assert [node.name for node in others if isinstance(node, ast.ClassDef)] == []
    assert {node.name: body_lines(node) for node in others if body_lines(node) > HELPER_LINES} == {}


def is_node(node):
    """Written as ComfyUI-Manager reads it: a direct subclass, with the id in plain text."""
    if not isinstance(node, ast.ClassDef) or "io.ComfyNode" not in map(ast.unparse, node.bases):
        return False
    ids = [
        keyword.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
        for keyword in call.keywords
        if keyword.arg == "node_id"
    ]
    return len(ids) == 1 and isinstance(ids[0], ast.Constant) and ids[0].value == node.name


def test_no_call_with_many_unnamed_arguments():
    calls = (
        (f"{path.name}:{call.lineno}", len(call.args))
        for path in SOURCES
        if path.parent.name != "kernels"  # which say what Triton's kernels take
        for call in ast.walk(parsed(path))
        if isinstance(call, ast.Call)
    )
    assert {place: count for place, count in calls if count > POSITIONAL} == {}

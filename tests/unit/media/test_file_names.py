"""Prefixes of file names: patterns become values, and what no disk can hold is refused."""

from datetime import datetime

import pytest
from wan_s2v_pack.wan_s2v_model.media.file_names import fill_in, prefix_problem, same_but_for_case, windows_problem

NOW = datetime(2026, 3, 4, 5, 6, 7)
PROMPT = {
    "4": {
        "class_type": "WanS2VSampler",
        "inputs": {"seed": 42, "cfg": 4.5, "model": ["1", 0]},
        "_meta": {"title": "Sample Video (Wan S2V)"},
    },
    "5:7": {"class_type": "CLIPTextEncode", "inputs": {"text": 'a "singer": in/out'}, "_meta": {"title": "Prompt v1.2"}},
    "9": {"class_type": "WanS2VSampler", "inputs": {"seed": 43}},
}
WORKFLOW = {"nodes": [{"id": 9, "title": "Second", "properties": {"Node name for S&R": "Mine"}}, {"id": 1, "properties": {}}]}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("video/wan_s2v", "video/wan_s2v"),
        ("%date:yyyy-MM-dd%/a", "2026-03-04/a"),
        ("%date:yy-M-d hhmmss%", "26-3-4 050607"),
        ("%date:hh:mm%", "05_06"),
        ("%date:yyyy/MM%/x", "2026/03/x"),
        ("s%WanS2VSampler.seed%", "s42"),
        ("%Sample Video (Wan S2V).cfg%", "4.5"),
        ("%Mine.seed%_%Second.seed%", "43_43"),
        ("%Prompt v1.2.text%", "a _singer__ in_out"),
        ("%year%-%width%x%height%", "%year%-%width%x%height%"),  # those ComfyUI's server fills in
        ("50% of 80%", "50% of 80%"),
    ],
)
def test_patterns_become_values(prefix, expected):
    """They stayed in the name: the front end replaces them for ComfyUI's own nodes only."""
    assert fill_in(prefix, PROMPT, WORKFLOW, NOW) == (expected, [])


@pytest.mark.parametrize(
    ("prefix", "kept"),
    [("%KSampler.seed%", None), ("%WanS2VSampler.model%", None), ("%WanS2VSampler.nothing%", None), ("%a:b/c.d%", "%a_b_c.d%")],
)
def test_a_pattern_without_a_value_stays_without_what_is_illegal(prefix, kept):
    assert fill_in(f"x{prefix}", PROMPT, WORKFLOW, NOW) == (f"x{kept or prefix}", [prefix])
    assert fill_in(f"x{prefix}", None, None, NOW) == (f"x{kept or prefix}", [prefix])


@pytest.mark.parametrize(
    "prefix", ["wan", "video/wan_s2v", "a\\b", "./a", "%date:hh:mm%/a", "%Load: x.y%", "ünï/漢字", ".hidden", "console", "video/", "a.b"]
)
def test_prefixes_that_are_taken(prefix):
    assert prefix_problem(prefix) is None


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("/abs/a", "must stay inside ComfyUI's output folder"),
        ("\\abs", "must stay inside"),
        ("../a", "must stay inside"),
        ("a/../../b", "must stay inside"),
        ("", "is empty, which would make a hidden file"),
        (".", "is empty"),
        ("./", "is empty"),
        ("C:/a", "holds ':'"),
        ("a:b", "holds ':'"),
        ("what?", "holds '?'"),
        ("a*", "holds '*'"),
        ('say "a"', "holds '\"'"),
        ("a<b", "holds '<'"),
        ("a|b", "holds '|'"),
        ("a\nb", "holds '\\\\n'"),
        ("a\x00", "holds '\\\\x00'"),
        ("con", "is a name that Windows keeps for itself"),
        ("videos/AUX/a", "keeps for itself"),
        ("lpt1.mp4", "keeps for itself"),
        ("folder./a", "ends with a dot"),
        ("a.", "ends with a dot"),
        (" a", "begins or ends with a space"),
        ("  ", "begins or ends with a space"),
        ("a /b", "begins or ends with a space"),
        ("x" * 201, "is longer than 200 bytes"),
        ("漢" * 70, "is longer than 200 bytes"),
        ("a\ud800", "half a character"),
    ],
)
def test_prefixes_that_are_refused(prefix, problem):
    """They were found out after hours of sampling, or made a file that other systems cannot hold."""
    assert problem.replace("\\\\", "\\") in prefix_problem(prefix)


@pytest.mark.parametrize("name", ["CON", "nul", "COM1", "lpt9.txt", "Aux.talk", "talk.", "talk ", " talk"])
def test_names_that_windows_does_not_take(name):
    assert "Windows" in windows_problem(name)


@pytest.mark.parametrize("name", ["talk", "console", "com", "COM10", "nul_2", "a.b"])
def test_names_that_it_takes(name):
    assert windows_problem(name) is None


def test_a_name_that_differs_in_case_only_is_found(tmp_path):
    assert same_but_for_case(tmp_path / "none" / "talk") is None
    (tmp_path / "Talk").mkdir()
    assert same_but_for_case(tmp_path / "talk") == "Talk"
    assert same_but_for_case(tmp_path / "Talk") is None
    assert same_but_for_case(tmp_path / "talk_2") is None


@pytest.mark.parametrize(
    "workflow",
    [{"nodes": 3}, {"nodes": [3, None, {"properties": 5}]}, {"nodes": {"a": 1}}, 7, [], {"nodes": [{"properties": ["x"], "title": {}}]}],
)
def test_a_workflow_that_is_none_has_no_values(workflow):
    prompt = {"1": {"class_type": "X", "inputs": {"a": 1}, "_meta": "no mapping"}}
    assert fill_in("%Y.a%", prompt, workflow, datetime(2026, 1, 1)) == ("%Y.a%", ["%Y.a%"])


def test_values_of_patterns_become_no_endless_names():
    prompt = {"1": {"class_type": "X", "inputs": {"a": "ü\ud800/" * 500}}}
    name, _ = fill_in("%X.a%", prompt, {}, datetime(2026, 1, 1))
    assert prefix_problem(name) is None
    name, _ = fill_in(f"%date:{'yyyy' * 200}%", {}, {}, datetime(2026, 1, 1))
    assert prefix_problem(name) is None


def test_a_prefix_with_folders_without_end():
    assert "is longer than 1000 bytes" in prefix_problem("a/" * 600 + "x")

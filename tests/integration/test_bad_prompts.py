"""Prompts that nobody means, drawn from the templates, through `/prompt` of a real server.

Whatever comes, the answer is a result, an error of a node or a refusal that a person understands; the server lives, nothing is written
outside output and temp, the memory comes back, and the next good prompt gives the same video. 24 prompts here, others with WAN_S2V_CASES
and WAN_S2V_SEED; docs/reliability.md says what came of it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import requests
from wan_s2v_pack.tests.odd_values import JSON_VALUES, ONLY_DRAWN
from wan_s2v_pack.tests.raw_errors import FORBIDDEN_KINDS, raw_words

from .graphs import ROOT, Prompt, change, quick_start, shrink
from .rendering import Renderer
from .test_workflows import without_pose_finder

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is in requirements-dev.txt")
st = hypothesis.strategies

CASES, SEED = int(os.environ.get("WAN_S2V_CASES", "24")), int(os.environ.get("WAN_S2V_SEED", "0"))
TEMPLATES = ("quick_start", "all_nodes", "dialogue", "song", "pose", "core_nodes", "dub", "live")
LONG_S = 5.0  # then a prompt is cancelled
HANGS_S = 120.0  # a cancel that takes so long is lost; 5 s on a machine that does nothing else
MOST_GROWTH = 300 * 2**20  # bytes of the server; soak measures more sharply
OUTPUTS = 4  # numbers of outputs that are tried
OURS = "WanS2V"
RAW_NAMES = {kind.__name__ for kind in FORBIDDEN_KINDS}
Draw = Callable[[Any], Any]


# --- prompts


def good_prompt(name: str) -> Prompt:
    """A template with the tiny models, small, and without a run that stays."""
    prompt = shrink(json.loads((ROOT / "docs" / "api" / f"wan_s2v_{name}.json").read_text(encoding="utf-8")))
    for node in prompt.values():
        node["inputs"].update({name: "" for name in ("run_name",) if name in node["inputs"]})
    return without_pose_finder(change(prompt, duration=0.5))


def pick(draw: Draw, items: Any) -> Any:
    items = list(items)
    return items[draw(st.integers(0, len(items) - 1))]


def link(draw: Draw, prompt: Prompt) -> list[Any]:
    return [pick(draw, prompt), draw(st.integers(-1, OUTPUTS))]


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def node_with(draw: Draw, prompt: Prompt, fits: Callable[[Any], bool]) -> tuple[str, str] | None:
    """A node and an input of it whose value fits."""
    places = [(key, name) for key, node in prompt.items() for name, value in node["inputs"].items() if fits(value)]
    return pick(draw, places) if places else None


def odd_value(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, lambda value: not is_link(value)):
        prompt[place[0]]["inputs"][place[1]] = pick(draw, JSON_VALUES)


def literal_for_link(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, is_link):
        prompt[place[0]]["inputs"][place[1]] = pick(draw, JSON_VALUES)


def wrong_socket(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, is_link):
        prompt[place[0]]["inputs"][place[1]] = link(draw, prompt)


def link_for_literal(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, lambda value: not is_link(value)):
        prompt[place[0]]["inputs"][place[1]] = link(draw, prompt)


def link_to_nowhere(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, lambda value: True):
        nowhere = [["999", 0], [pick(draw, prompt), 99], ["", 0], [pick(draw, prompt), "x"], [pick(draw, prompt), 0.5], [None, 0], [1, 0]]
        prompt[place[0]]["inputs"][place[1]] = pick(draw, nowhere)


def circle(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, is_link):
        prompt[place[0]]["inputs"][place[1]] = [place[0], 0]


def missing_input(draw: Draw, prompt: Prompt) -> None:
    if place := node_with(draw, prompt, lambda value: True):
        del prompt[place[0]]["inputs"][place[1]]


def extra_input(draw: Draw, prompt: Prompt) -> None:
    """As ComfyUI 0.30 bears it, whose thread of prompts ends for ever at others: to an output that there is, and, at its own nodes, under a
    name that can be written to a log."""
    names = ("extra", "", "size.other", "self", "cls", "__class__", "unique_id", "prompt", "mask_9", "options", "a\ud800")
    links = [value for node in prompt.values() for value in node["inputs"].values() if is_link(value)]
    value = pick(draw, links if draw(st.booleans()) else JSON_VALUES)
    node = prompt[pick(draw, prompt)]
    node["inputs"][pick(draw, names if is_ours(node) else names[:-1])] = value


def missing_node(draw: Draw, prompt: Prompt) -> None:
    del prompt[pick(draw, prompt)]


def other_node(draw: Draw, prompt: Prompt) -> None:
    types = [*(node["class_type"] for node in prompt.values()), "NoSuchNode", "", "WanS2V\ud800"]
    prompt[pick(draw, prompt)]["class_type"] = pick(draw, types)


CHANGES = (
    *(odd_value, odd_value, literal_for_link, wrong_socket, link_for_literal, link_to_nowhere),
    *(circle, missing_input, extra_input, missing_node, other_node),
)


def bad_prompt(draw: Draw, templates: dict[str, Prompt]) -> Prompt:
    prompt = copy.deepcopy(pick(draw, templates.values()))
    for _ in range(draw(st.integers(1, 2))):
        pick(draw, CHANGES)(draw, prompt)
    return prompt


# --- answers


def ask(renderer: Renderer, prompt: Prompt) -> list[str]:
    """Queue a prompt, wait for its end, and say which errors in its answer no person understands."""
    answer = requests.post(f"{renderer.client.url}/prompt", data=json.dumps({"prompt": prompt}).encode(), timeout=HANGS_S)
    body = answer.json() if answer.content else {}
    raw = [] if answer.status_code in (200, 400) else [f"status {answer.status_code}: {answer.text[:300]}"]
    for node in body.get("node_errors", {}).values() if isinstance(body.get("node_errors"), dict) else ():
        raw += [f"{node['class_type']}: {problem}" for problem in map(refusal_problem, node["errors"]) if problem and is_ours(node)]
    if "prompt_id" in body:
        status = end_of(renderer, body["prompt_id"])
        raw += [problem for kind, data in status["messages"] if kind == "execution_error" and (problem := failure_problem(data))]
        renderer.client.forget(body["prompt_id"])
    return raw


def is_ours(node: dict[str, Any]) -> bool:
    return str(node["class_type"]).startswith(OURS)


def end_of(renderer: Renderer, prompt_id: str) -> dict[str, Any]:
    """How a prompt ended; one that takes long is cancelled."""
    begun, cancelled = time.monotonic(), False
    while (record := renderer.client.history(prompt_id)) is None:
        assert renderer.server.alive(), renderer.server.log_tail()
        waited = time.monotonic() - begun
        assert waited < LONG_S + HANGS_S, "a cancel has no effect"
        if waited > LONG_S and not cancelled:
            renderer.client.interrupt(prompt_id)
            cancelled = True
        time.sleep(0.02)
    return record["status"]


def refusal_problem(error: dict[str, Any]) -> str | None:
    """What no person understands in a refusal; what ComfyUI says itself of types, ranges and links stands as it is."""
    if error["type"] == "custom_validation_failed":
        return raw_words(error["details"])
    return f"{error['type']}: {error['details'][:300]}" if is_from_us(error.get("extra_info", {}).get("traceback", ())) else None


def failure_problem(data: dict[str, Any]) -> str | None:
    """What no person understands in an error of one of our nodes, where our code ran at all."""
    if not str(data["node_type"]).startswith(OURS) or not is_from_us(data["traceback"]):
        return None
    kind, text = data["exception_type"].rpartition(".")[2], data["exception_message"].strip()
    is_raw = kind in RAW_NAMES or not text or raw_words(text)
    return f"{data['node_type']}: {kind}: {text[:300]}\n{''.join(data['traceback'][-2:])}" if is_raw else None


def is_from_us(steps: Iterable[str]) -> bool:
    return any(f"wan_s2v_model{os.sep}" in step or f"{os.sep}nodes{os.sep}" in step for step in steps)


# --- what must stay


def files_outside(base: Path) -> set[str]:
    """Every file around the server but those in output, temp and user; beside its folder other tests work in theirs."""
    found = {str(path) for path in base.parent.iterdir() if path.is_file()}
    for folder, folders, names in os.walk(base):
        if Path(folder) == base:
            folders[:] = [name for name in folders if name not in ("output", "temp", "user")]
        found |= {os.path.join(folder, name) for name in names if not name.endswith((".log", ".pyc"))}
    return found


def digest(renderer: Renderer) -> str:
    renderer.client.free()
    video = renderer.render(quick_start(seed=7, filename_prefix="bad_prompts/good"))
    return hashlib.sha256(video.luma.tobytes() + video.sound.tobytes()).hexdigest()


@pytest.fixture
def clean_output(renderer):
    before = renderer.output_files()
    yield
    for path in renderer.output_files() - before:
        path.unlink()


@pytest.mark.usefixtures("clean_output")
def test_every_prompt_is_answered_in_words(renderer, base_directory):
    templates = {name: good_prompt(name) for name in TEMPLATES}
    good, outside, memory = digest(renderer), files_outside(base_directory), renderer.server.memory_bytes()
    raw: dict[str, Prompt] = {}
    tried = []

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=CASES, **ONLY_DRAWN)
    @hypothesis.given(data=st.data())
    def try_one(data):
        prompt = bad_prompt(data.draw, templates)
        begun = time.monotonic()
        for problem in ask(renderer, prompt):
            raw.setdefault(problem, prompt)
        tried.append(round(time.monotonic() - begun, 1))
        if len(tried) % 100 == 0:
            assert digest(renderer) == good

    try_one()
    print(f"{len(tried)} prompts, the slowest (seconds): {sorted(tried)[-5:]}")
    assert not raw, "\n\n".join(raw)
    assert digest(renderer) == good
    assert files_outside(base_directory) == outside
    assert renderer.server.memory_bytes() - memory < MOST_GROWTH

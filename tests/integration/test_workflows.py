"""The shipped workflows, their twins in API format and the subgraph blueprint on a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.workflows.convert import ui_to_api

from .graphs import DUB, FILM_SIZE, QUICK_START, ROOT, SIZE, TWO_CLIPS, WORKFLOWS, Prompt, change, shrink
from .rendering import Renderer, open_video

ALL_NODES = ROOT / "docs" / "api" / "wan_s2v_all_nodes.json"
OTHER_LOADERS = {"UpscaleModelLoader", "FrameInterpolationModelLoader", "CheckpointLoaderSimple"}
WIDTH = 128
SECONDS = TWO_CLIPS["duration"]
NAMES = [path.stem for path in WORKFLOWS]
UPSCALED = "Upscaled talking video (Wan S2V)"
SIZES = (WIDTH, SIZE), (2 * WIDTH, 2 * SIZE)
VIDEOS = {
    **{name: {"": (16, SIZES[0])} for name in NAMES},
    UPSCALED: {"first_pass": (16, SIZES[0]), "second_pass": (24, SIZES[1])},
    DUB: {"": (24, FILM_SIZE)},
    "Live talking video (Wan S2V)": {"": (25, SIZES[0])},  # Live-Avatar's rate
}
BLUEPRINT = "Talking video, lip sync (Wan S2V)"
POSE_FINDER = ("CheckpointLoaderSimple", "SDPoseKeypointExtractor", "SDPoseDrawKeypoints")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def fetch(server):
    """What the front end gets at a path."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(path: str) -> bytes:
        with direct.open(server.url + path, timeout=30) as answer:
            return answer.read()

    return get


def small(prompt: Prompt, name: str) -> Prompt:
    prompt = change(shrink(prompt), width=WIDTH, **TWO_CLIPS)
    for node in prompt.values():
        if node["inputs"].get("run_name"):
            node["inputs"]["run_name"] = re.sub(r"\W+", "_", name)
        if "audio_cfg" in node["inputs"]:
            assert node["inputs"]["audio_cfg"] != 4.5, "the same number as cfg takes no part"
    return without_pose_finder(prompt)


def without_pose_finder(prompt: Prompt) -> Prompt:
    """There is no tiny model that finds a pose: the film itself goes where its skeleton would."""
    (drawn, *_) = [[key, 0] for key, node in prompt.items() if node["class_type"] == POSE_FINDER[-1]] or [None]
    film = [[key, 0] for key, node in prompt.items() if node["class_type"] == "GetVideoComponents"]
    for node in prompt.values():
        node["inputs"] = {name: film[0] if drawn is not None and value == drawn else value for name, value in node["inputs"].items()}
    return {key: node for key, node in prompt.items() if node["class_type"] not in POSE_FINDER}


def videos_of(outputs, renderer: Renderer) -> dict[str, Path]:
    """Name of the file without its counter -> its path."""
    return {path.name.split("_000")[0]: path for path in renderer.video_paths(outputs)}


@pytest.mark.parametrize("name", NAMES)
def test_workflow_renders(name, client, renderer):
    workflow = read(ROOT / "workflows" / f"{name}.json")
    prompt = small(ui_to_api(workflow, client.object_info()), name)
    paths = videos_of(client.run(prompt, workflow=workflow), renderer)
    assert len(paths) == len(VIDEOS[name])
    for suffix, (fps, size) in VIDEOS[name].items():
        (path,) = (path for stem, path in paths.items() if stem.endswith(suffix))
        video = open_video(path)
        assert (video.video_codec, video.audio_codec) == ("h264", "aac")
        assert video.size == size
        assert (video.fps, video.num_frames) == (fps, round(SECONDS * fps))
        assert video.frame_times[0] == pytest.approx(0, abs=1e-4)
        assert abs(video.sound_seconds - video.picture_seconds) <= 1 / fps
        assert video.stored_json("workflow") == workflow
        assert {key: node["class_type"] for key, node in video.stored_json("prompt").items()} == {
            key: node["class_type"] for key, node in prompt.items()
        }


def test_files_are_those_of_the_script(server):
    """Texts, schemas, workflows, their twins in API format, blueprint and map, from the nodes as they are now."""
    command = [sys.executable, str(ROOT / "scripts" / "updating.py"), "--server", server.url, "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, ""), f"run scripts/update, then commit what it has written\n{result.stderr}"


def test_the_graph_of_the_command_line_is_that_of_all_nodes_at_the_references_settings():
    plain, template = ({node["class_type"] for node in read(path).values()} for path in (QUICK_START, ALL_NODES))
    assert template - plain == {"WanS2VLoraLoader", "WanS2VDraftOrFinal"}
    assert plain < template


def test_templates_of_the_front_end(fetch):
    """The dialog asks for the list, and for a workflow and a picture by these addresses."""
    assert sorted(json.loads(fetch("/workflow_templates"))["wan_s2v"]) == NAMES
    for name in NAMES:
        for suffix in ("json", "jpg"):
            address = f"/api/workflow_templates/wan_s2v/{urllib.parse.quote(name)}.{suffix}"
            assert fetch(address) == (ROOT / "workflows" / f"{name}.{suffix}").read_bytes()


def test_models_of_other_nodes_are_those_of_comfyuis_own_blueprints(comfyui_path):
    known = [
        model
        for path in (comfyui_path / "blueprints").glob("*.json")
        for subgraph in read(path)["definitions"]["subgraphs"]
        for node in subgraph["nodes"]
        for model in node["properties"].get("models", ())
    ]
    workflows = [read(path) for path in WORKFLOWS]
    graphs = [graph for flow in workflows for graph in (flow, *flow.get("definitions", {}).get("subgraphs", []))]
    nodes = [node for graph in graphs for node in graph["nodes"] if node["type"] in OTHER_LOADERS]
    assert {node["type"] for node in nodes} == OTHER_LOADERS
    assert all(model in known for node in nodes for model in node["properties"]["models"])


@pytest.fixture
def blueprint(fetch):
    """As the server hands it to the node library."""
    entries = json.loads(fetch("/global_subgraphs")).items()
    ours = {entry["name"]: key for key, entry in entries if entry["info"]["node_pack"] == "custom_nodes.wan_s2v"}
    return json.loads(json.loads(fetch(f"/global_subgraphs/{ours[BLUEPRINT]}"))["data"])


@pytest.mark.parametrize("output", ["clips", "video"])
def test_blueprint_renders(output, blueprint, client, renderer):
    """With a picture, a sound and a saver around it, and values on the subgraph node itself."""
    (node,) = blueprint["nodes"]
    widgets = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    values = {**dict(zip(widgets, node["widgets_values"], strict=True)), "prompt": "A man sings.", "seed": 7}
    node["widgets_values"] = list(values.values())
    outer = ui_to_api(connect(blueprint, output), client.object_info())
    sampler = next(item["inputs"] for item in outer.values() if item["class_type"] == "WanS2VSampler")
    assert sampler["seed"] == 7
    video = renderer.render(small(outer, "blueprint"))
    assert (video.size, video.num_frames) == ((WIDTH, SIZE), round(SECONDS * 16))


def connect(blueprint: dict, output: str) -> dict:
    """The blueprint's workflow with Load Image, Load Audio and Save Video."""
    (node,) = blueprint["nodes"]
    sockets = {entry["name"]: index for index, entry in enumerate(node["inputs"])}
    outputs = [entry["name"] for entry in node["outputs"]]
    node["inputs"][sockets["image"]]["link"], node["inputs"][sockets["audio"]]["link"] = 1, 2
    around = [
        {"id": 1, "type": "LoadImage", "widgets_values": ["sample_portrait.png", "image"]},
        {"id": 2, "type": "LoadAudio", "widgets_values": ["sample_speech.wav", None]},
        {"id": 3, "type": "WanS2VSaveVideo", "inputs": [{"name": output, "link": 3}], "widgets_values": ["blueprint/video"]},
    ]
    links = [
        [1, 1, 0, node["id"], sockets["image"], "IMAGE"],
        [2, 2, 0, node["id"], sockets["audio"], "AUDIO"],
        [3, node["id"], outputs.index(output), 3, 0, "*"],
    ]
    return {**blueprint, "nodes": [node, *around], "links": links}

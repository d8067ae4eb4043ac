"""The shipped workflows, their twins in API format and the subgraph blueprint on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.workflows.convert import ui_to_api

from .graphs import QUICK_START, ROOT, SIZE, TWO_CLIPS, WORKFLOWS, Prompt, change, shrink
from .rendering import Renderer, open_video

WIDTH = 128
SECONDS = TWO_CLIPS["duration"]
NAMES = [path.stem for path in WORKFLOWS]
VIDEOS = {name: {"": (16, 1)} for name in NAMES} | {"wan_s2v_two_pass": {"first_pass": (16, 1), "second_pass": (24, 2)}}
BLUEPRINT = "Talking video (Wan S2V)"


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
            node["inputs"]["run_name"] = name
        if "audio_cfg" in node["inputs"]:
            assert node["inputs"]["audio_cfg"] != 4.5, "the same number as cfg takes no part"
    return prompt


def videos_of(outputs, renderer: Renderer) -> dict[str, Path]:
    """Name of the file without its counter -> its path."""
    return {path.name.split("_000")[0]: path for path in renderer.video_paths(outputs)}


@pytest.mark.parametrize("name", NAMES)
def test_workflow_renders(name, client, renderer):
    workflow = read(ROOT / "workflows" / f"{name}.json")
    prompt = small(ui_to_api(workflow, client.object_info()), name)
    paths = videos_of(client.run(prompt, workflow=workflow), renderer)
    assert len(paths) == len(VIDEOS[name])
    for suffix, (fps, scale) in VIDEOS[name].items():
        (path,) = (path for stem, path in paths.items() if stem.endswith(suffix))
        video = open_video(path)
        assert (video.video_codec, video.audio_codec) == ("h264", "aac")
        assert video.size == (scale * WIDTH, scale * SIZE)
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


def test_the_demo_prompt_is_the_quick_start():
    assert read(QUICK_START) == read(ROOT / "docs" / "api" / "wan_s2v_quick_start.json")


def test_templates_of_the_front_end(fetch):
    """The dialog asks for the list, and for a workflow and a picture by these addresses."""
    assert sorted(json.loads(fetch("/workflow_templates"))["wan_s2v"]) == NAMES
    for name in NAMES:
        for suffix in ("json", "jpg"):
            assert fetch(f"/api/workflow_templates/wan_s2v/{name}.{suffix}") == (ROOT / "workflows" / f"{name}.{suffix}").read_bytes()


def test_models_of_other_nodes_are_those_of_comfyuis_own_blueprints(comfyui_path):
    known = [
        model
        for path in (comfyui_path / "blueprints").glob("*.json")
        for subgraph in read(path)["definitions"]["subgraphs"]
        for node in subgraph["nodes"]
        for model in node["properties"].get("models", ())
    ]
    (workflow,) = (read(path) for path in WORKFLOWS if path.stem == "wan_s2v_two_pass")
    models = [
        node["properties"]["models"]
        for node in workflow["nodes"]
        if node["type"] in ("UpscaleModelLoader", "FrameInterpolationModelLoader")
    ]
    assert len(models) == 2
    assert all(model in known for (model,) in models)


@pytest.fixture
def blueprint(fetch):
    """As the server hands it to the node library."""
    entries = json.loads(fetch("/global_subgraphs")).items()
    (key,) = (key for key, entry in entries if entry["info"]["node_pack"] == "custom_nodes.wan_s2v")
    entry = json.loads(fetch(f"/global_subgraphs/{key}"))
    assert entry["name"] == BLUEPRINT
    return json.loads(entry["data"])


@pytest.mark.parametrize("output", ["clips", "video"])
def test_blueprint_renders(output, blueprint, client, renderer):
    """With a picture, a sound and a saver around it, and values on the subgraph node itself."""
    (node,) = blueprint["nodes"]
    values = {"prompt": "A man sings.", "size": "custom", "seed": 7, "steps": 3, "cfg": 4.0, "run_name": ""}
    node["widgets_values"] = list(values.values())
    outer = ui_to_api(connect(blueprint, output), client.object_info())
    sampler = next(item["inputs"] for item in outer.values() if item["class_type"] == "WanS2VSampler")
    assert {name: sampler[name] for name in ("seed", "steps", "cfg")} == {"seed": 7, "steps": 3, "cfg": 4.0}
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

"""The shipped workflows as files: layout, titles, pictures, and what they tell the front end about the models they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from wan_s2v_pack.cli.models.files import BY_DEFAULT, PARTS, SETS, by_name, select
from wan_s2v_pack.scripts.records.schemas import read_snapshot
from wan_s2v_pack.scripts.workflows.layout import GROWING, LARGEST, TITLE
from wan_s2v_pack.wan_s2v_model.constants import DEFAULT_GUIDANCE_SCALE, DEFAULT_SHIFT, DEFAULT_STEPS
from wan_s2v_pack.wan_s2v_model.sampling.schedule import PRESETS, build_schedule

ROOT = Path(__file__).resolve().parents[4]
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}
BLUEPRINTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "subgraphs").glob("*.json"))}
QUICK_START, QUALITY = "Talking photo, quick start (Wan S2V)", "Talking photo, top quality (Wan S2V)"
LIVE = "Live talking video (Wan S2V)"
FOLDERS = {  # loader -> the folder it lists
    "WanS2VModelLoader": "diffusion_models",
    "WanS2VTextEncoderLoader": "text_encoders",
    "WanS2VAudioEncoderLoader": "audio_encoders",
    "WanS2VVAELoader": "vae",
    "UNETLoader": "diffusion_models",
    "VAELoader": "vae",
    "WanS2VLoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "CheckpointLoaderSimple": "checkpoints",
    "UpscaleModelLoader": "upscale_models",
    "FrameInterpolationModelLoader": "frame_interpolation",
}
OUR_FOLDERS = {part.folder for part in PARTS.values()}
DOWNLOADABLE = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")  # the front end offers no other files, and only from some hosts
QUICK_START_LARGEST = (1791 - 20, 891 - 20)  # px: three quarters of 1366x680 at 8/14 of full size, without a rim of 10
FOUND_WITHIN = 33  # letters from the beginning: the front end's search ranks by place, and gives up behind a third of 100
SEARCH_WORDS = ("talking", "photo", "avatar", "lip sync", "song", "pose", "app", "dub", "upscale", "wan s2v")


def graphs(flow: dict[str, Any]) -> list[dict[str, Any]]:
    """The graph itself, and the subgraphs in it."""
    return [flow, *flow.get("definitions", {}).get("subgraphs", [])]


def nodes_of(flow: dict[str, Any], *types: str) -> Iterator[dict[str, Any]]:
    """Every node, those in subgraphs too, without the notes."""
    for graph in graphs(flow):
        yield from (node for node in graph["nodes"] if node["type"] != "MarkdownNote" and (not types or node["type"] in types))


every_graph = pytest.mark.parametrize(
    "graph", [pytest.param(graph, id=f"{name}-{index}") for name, flow in WORKFLOWS.items() for index, graph in enumerate(graphs(flow))]
)
every_workflow = pytest.mark.parametrize("name", WORKFLOWS)
LOADERS = [pytest.param(node, id=f"{name}-{node['type']}") for name, flow in WORKFLOWS.items() for node in nodes_of(flow, *FOLDERS)]


# --- models


@pytest.mark.parametrize("node", LOADERS)
def test_loader_says_where_its_file_is(node):
    (model,) = node["properties"]["models"]
    assert model["name"] == node["widgets_values"][0]
    assert model["directory"] == FOLDERS[node["type"]]
    assert model["url"].startswith("https://huggingface.co/")
    assert model["url"].endswith(f"/{model['name']}")
    assert model["name"].endswith(DOWNLOADABLE)
    if model["directory"] in OUR_FOLDERS:
        file = by_name(model["name"])
        assert model == {"name": file.name, "url": file.url, "directory": file.folder}


@every_workflow
def test_every_needed_file_is_named_once(name):
    models = [model for node in nodes_of(WORKFLOWS[name]) for model in node["properties"].get("models", ())]
    used = {FOLDERS[node["type"]] for node in nodes_of(WORKFLOWS[name], *FOLDERS)}
    needed = {part.folder for part in PARTS.values() if part.needed}
    assert sorted(model["directory"] for model in models) == sorted(needed | used)
    assert "models" not in WORKFLOWS[name]


@every_workflow
def test_a_workflow_names_what_download_fetches(name):
    """Without options the small files and the LoRA; for the best quality the exact ones, for live video its own LoRA."""
    precision = "bf16" if name == QUALITY else SETS["comfy"]
    parts = tuple("live" if part == "lora" and name == LIVE else part for part in BY_DEFAULT)
    fetched = {file.name for file in select("comfy", precision, parts)}
    named = {node["widgets_values"][0] for node in nodes_of(WORKFLOWS[name], *FOLDERS) if FOLDERS[node["type"]] in OUR_FOLDERS}
    assert named <= fetched
    assert fetched - named <= ({file.name for file in select("comfy", precision, ("lora",))} if name == QUALITY else set())


# --- draft and final


@every_workflow
def test_a_workflow_begins_with_a_draft(name):
    """One switch between the LoRA with its preset and the reference's settings; those about quality and live video have none of it."""
    switches = list(nodes_of(WORKFLOWS[name], "WanS2VDraftOrFinal"))
    if name == LIVE:
        assert switches == []
    elif name == QUALITY:
        (sampler,) = nodes_of(WORKFLOWS[name], "WanS2VSampler")
        assert switches == []
        assert {DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_SHIFT, "unipc"} <= set(sampler["widgets_values"])
    else:
        (switch,) = switches
        assert switch["widgets_values"] == ["draft"]
        assert all(output["links"] for output in switch["outputs"])


def test_the_draft_samples_at_the_levels_of_the_distillation():
    """lightx2v distils for timesteps 1000, 750, 500 and 250 before a shift of 5."""
    steps, cfg, shift, solver = PRESETS["draft"]
    base = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(build_schedule(solver, steps, shift).sigmas, shift * base / (1 + (shift - 1) * base))
    assert cfg == 1


# --- layout


def box(node):
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE, left + width, top + height


def extent(graph):
    lefts, tops, rights, bottoms = zip(*map(box, graph["nodes"]), strict=True)
    return max(rights) - min(lefts), max(bottoms) - min(tops)


@every_graph
def test_all_of_it_can_be_read_in_a_window_of_1920x950(graph):
    assert all(side <= most for side, most in zip(extent(graph), LARGEST, strict=True)), extent(graph)


def test_the_quick_start_can_be_read_in_a_window_of_1366x680():
    assert len(WORKFLOWS[QUICK_START]["nodes"]) == 6
    assert all(side <= most for side, most in zip(extent(WORKFLOWS[QUICK_START]), QUICK_START_LARGEST, strict=True))


@every_graph
def test_links_never_go_back_to_the_left(graph):
    left = {node["id"]: node["pos"][0] for node in graph["nodes"]}
    links = [(link["origin_id"], link["target_id"]) if isinstance(link, dict) else (link[1], link[3]) for link in graph["links"]]
    assert [(origin, target) for origin, target in links if min(origin, target) > 0 and left[origin] > left[target]] == []


@every_graph
def test_nodes_do_not_overlap(graph):
    """With the sizes in the file; tests/browser has those of the front end."""
    for one, other in combinations(map(box, graph["nodes"]), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@every_graph
def test_nothing_stands_below_a_node_that_grows(graph):
    """A video of any shape makes it taller."""
    for node in graph["nodes"]:
        if node["type"] in GROWING or node["properties"].get("previewExposures"):
            left, _, right, bottom = box(node)
            below = [box(other) for other in graph["nodes"] if box(other)[1] >= bottom]
            assert [other for other in below if other[0] < right and other[2] > left] == [], node["type"]


@every_graph
def test_every_node_stands_in_the_frame_of_its_column(graph):
    if graph["groups"]:
        owners = {node["id"]: [group["id"] for group in graph["groups"] if inside(node, group)] for node in graph["nodes"]}
        assert all(len(groups) == 1 for groups in owners.values()), owners


def inside(node, group):
    left, top, right, bottom = box(node)
    x, y, width, height = group["bounding"]
    return x <= left and y <= top and right <= x + width and bottom <= y + height


def test_ids_differ_between_a_graph_and_its_subgraphs():
    """The front end gives new ids to those that it meets twice, and the App names its inputs by id."""
    for name, flow in WORKFLOWS.items():
        ids = [node["id"] for graph in graphs(flow) for node in graph["nodes"]]
        assert len(set(ids)) == len(ids), name


# --- what is seen in the list of templates


@every_workflow
def test_a_title_is_found_by_its_words(name):
    """The front end shows and searches the name of the file, and nothing else."""
    found = [word for word in SEARCH_WORDS if 0 <= name.lower().find(word) <= FOUND_WITHIN - (word == "wan s2v") * len("wan ")]
    assert "wan s2v" in found
    assert len(found) >= 2


def test_every_search_word_finds_a_template():
    assert [word for word in SEARCH_WORDS if not any(word in name.lower() for name in WORKFLOWS)] == []


def picture_of(name):
    return ROOT / "workflows" / f"{name}.jpg"


@every_workflow
def test_picture_beside_each(name):
    with Image.open(picture_of(name)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (400, 400))
    assert picture_of(name).stat().st_size < 50_000


def test_the_pictures_differ_at_first_sight():
    """Above the text, at the size of an icon."""
    upper = {name: Image.open(picture_of(name)).convert("RGB").crop((0, 0, 400, 300)) for name in WORKFLOWS}
    icons = {name: np.asarray(picture.resize((8, 6)), np.int16) for name, picture in upper.items()}
    alike = [pair for pair in combinations(icons, 2) if np.abs(icons[pair[0]] - icons[pair[1]]).mean() < 12]
    assert alike == []


@every_workflow
def test_inputs_are_samples(name):
    files = [node["widgets_values"][0] for node in nodes_of(WORKFLOWS[name], "LoadImage", "LoadAudio", "LoadVideo")]
    assert len(files) >= 2
    assert all((ROOT / "samples" / file).is_file() for file in files)


def test_every_node_that_changes_the_video_is_shown():
    """Somewhere in the set, apart from those that stand for another way in."""
    shown = {node["type"] for flow in WORKFLOWS.values() for node in nodes_of(flow)}
    assert set(read_snapshot()) - shown == {"WanS2VTail", "WanS2VTextToSpeech", "WanS2VSamplingOptions", "WanS2VStepCache"}


# --- the App and the blueprints


def test_the_app_names_widgets_and_nodes_that_are_there():
    apps = {name: flow for name, flow in WORKFLOWS.items() if flow["extra"].get("linearMode")}
    assert [name.endswith(".app") for name in apps] == [True], "the front end knows an App by the end of its name"
    (flow,) = apps.values()
    assert flow["nodes"] == WORKFLOWS[QUICK_START]["nodes"]
    nodes = {str(node["id"]): node for node in flow["nodes"]}
    form = flow["extra"]["linearData"]
    for node_id, widget in form["inputs"]:
        named = [entry["name"] for entry in nodes[node_id]["inputs"] if "widget" in entry]
        assert widget in named or nodes[node_id]["type"] in ("LoadImage", "LoadAudio")
    assert {nodes[node_id]["type"] for node_id in form["outputs"]} >= {"PreviewImage", "WanS2VSaveVideo"}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_template_has_the_blueprint_as_it_is_shipped(name):
    (shipped,) = BLUEPRINTS[name]["definitions"]["subgraphs"]
    used = [graph for flow in WORKFLOWS.values() for graph in graphs(flow)[1:] if graph["name"] == name]
    assert used
    assert all(graph == shipped for graph in used)


def test_the_blueprint_shows_what_its_sampler_shows():
    (node,) = BLUEPRINTS["Talking video, lip sync (Wan S2V)"]["nodes"]
    (sampler,) = nodes_of(BLUEPRINTS["Talking video, lip sync (Wan S2V)"], "WanS2VSampler")
    assert [exposure["sourceNodeId"] for exposure in node["properties"]["previewExposures"]] == [str(sampler["id"])]

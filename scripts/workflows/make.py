"""Make workflows/, docs/api/ and subgraphs/ from graphs.py and what a ComfyUI says about its nodes; scripts/update writes them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.models.files import by_name

from .convert import companions, is_widget, ui_to_api
from .graphs import STOCK_MODELS, TALKING_VIDEO, WORKFLOWS
from .parts import Blueprint, Group, Node, Workflow
from .subgraphs import INPUT_NODE, OUTPUT_NODE

Info = Mapping[str, Any]

QUICK_START = "wan_s2v_quick_start"
NAMESPACE = uuid.UUID("4c1b7e1e-53d6-4f3c-9a51-0f2b7c6d8e11")
OUR_PACK, CORE_PACK = "wan-s2v", "comfy-core"
COMPANION_VALUES = {"seed": "fixed", "image": "image", "file": "image", "audio": None}  # what the canvas puts behind these widgets
FIRST_NOTE, OUTER_NODE = 31, 51  # ids below are for nodes
OPTIONAL_SHAPE = 7

NOTE_HEIGHT, TITLE, GAP, MARGIN, GROUP_GAP = 130, 30, 30, 20, 70
COLOURS = ("#3f789e", "#557a46", "#8a6d3b", "#6a5a8c", "#8c4a4a", "#4a7f7f")
HEIGHTS = {  # in ComfyUI 0.30, with room for pictures and text
    "WanS2VModelLoader": 178,
    "WanS2VLoraLoader": 102,
    "WanS2VTextEncoderLoader": 82,
    "WanS2VAudioEncoderLoader": 106,
    "WanS2VVAELoader": 106,
    "WanS2VTextEncode": 300,
    "WanS2VPromptSchedule": 360,
    "WanS2VAudioEncode": 218,
    "WanS2VPose": 198,
    "WanS2VPrepare": 400,
    "WanS2VAudioGuidance": 130,
    "WanS2VContinuity": 106,
    "WanS2VSamplingOptions": 106,
    "WanS2VSampler": 840,
    "WanS2VDecode": 98,
    "WanS2VFrameRate": 122,
    "WanS2VSaveVideo": 780,
    "WanS2VDriftReport": 420,
    "WanS2VSyncReport": 420,
    "UNETLoader": 82,
    "VAELoader": 58,
    "CLIPTextEncode": 140,
    "LoadImage": 340,
    "LoadAudio": 136,
    "LoadVideo": 480,
    "PreviewImage": 300,
    "CreateVideo": 102,
    "SaveVideo": 620,
    "FrameInterpolationModelLoader": 58,
    "FrameInterpolate": 78,
    "UpscaleModelLoader": 58,
    "ImageUpscaleWithModel": 46,
    "ImageScaleBy": 82,
}


@dataclass
class Graph:
    """Nodes and links as the canvas saves them; a link is (id, from node, slot, to node, slot, type)."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[tuple[int, int, int, int, int, str]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def connect(self, source: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        number = len(self.links) + 1
        self.links.append((number, *source, *target, kind))
        return number


def make_files(object_info: Info) -> dict[str, str]:
    """Path in this checkout -> text of every file."""
    files = {f"subgraphs/{TALKING_VIDEO.name}.json": make_blueprint(TALKING_VIDEO, object_info)}
    for workflow in WORKFLOWS:
        files[f"workflows/{workflow.name}.json"] = made = make_workflow(workflow, object_info)
        files[f"docs/api/{workflow.name}.json"] = ui_to_api(made, object_info)
    files["cli/workflows/quick_start.json"] = files[f"docs/api/{QUICK_START}.json"]
    return {path: json.dumps(content, ensure_ascii=False, indent=2) + "\n" for path, content in files.items()}


def make_workflow(workflow: Workflow, object_info: Info) -> dict[str, Any]:
    """The workflow as the canvas saves it."""
    graph = make_graph(workflow.groups, object_info)
    made = _document(workflow.name, graph.nodes, graph.links, graph.groups)
    return {**made, "extra": {"ds": {"scale": 0.6, "offset": [60, 120]}}}


def _document(name: str, nodes: list[dict[str, Any]], links: Sequence[Sequence[Any]], groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": str(NAMESPACE if name == QUICK_START else uuid.uuid5(NAMESPACE, name)),
        "revision": 0,
        "last_node_id": max(node["id"] for node in nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": [list(link) for link in links],
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def make_blueprint(blueprint: Blueprint, object_info: Info) -> dict[str, Any]:
    """A workflow of one node, with the subgraph that it stands for."""
    graph = make_graph(blueprint.groups, object_info)
    nodes = {node["id"]: node for node in graph.nodes}
    inputs = [
        _subgraph_input(graph, nodes[node_id], object_info[nodes[node_id]["type"]], slot, name, input_name)
        for slot, (name, (node_id, input_name)) in enumerate(blueprint.inputs.items())
    ]
    outputs = [
        _subgraph_output(graph, nodes[node_id], slot, name, output_name)
        for slot, (name, (node_id, output_name)) in enumerate(blueprint.outputs.items())
    ]
    right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in graph.nodes) for axis in (0, 1))
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    subgraph = {
        "id": str(uuid.uuid5(NAMESPACE, blueprint.name)),
        "version": 1,
        "state": {"lastGroupId": len(graph.groups), "lastNodeId": max(nodes), "lastLinkId": len(graph.links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INPUT_NODE, "bounding": [-320, bottom // 3, 160, 20 * len(inputs) + 40]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 100, bottom // 3, 130, 20 * len(outputs) + 40]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": graph.nodes,
        "groups": graph.groups,
        "links": [dict(zip(names, link, strict=True)) for link in graph.links],
        "extra": {},
        "category": blueprint.category,
        "description": blueprint.description,
    }
    search = {"BlueprintSearchAliases": list(blueprint.search_aliases), "BlueprintDescription": blueprint.description}
    return {
        **_document(f"{blueprint.name} workflow", [_outer_node(blueprint, subgraph, nodes)], [], []),
        "definitions": {"subgraphs": [subgraph]},
        "extra": search,
    }


def _subgraph_input(graph: Graph, node: dict[str, Any], info: Info, slot: int, name: str, input_name: str) -> dict[str, Any]:
    index = slot_of(node, input_name, info)
    entry = node["inputs"][index]
    entry["link"] = graph.connect((INPUT_NODE, slot), (node["id"], index), entry["type"])
    return {"id": str(uuid.uuid5(NAMESPACE, f"input {name}")), "name": name, "type": entry["type"], "linkIds": [entry["link"]]}


def _subgraph_output(graph: Graph, node: dict[str, Any], slot: int, name: str, output_name: str) -> dict[str, Any]:
    index = [entry["name"] for entry in node["outputs"]].index(output_name)
    output = node["outputs"][index]
    output["links"].append(graph.connect((node["id"], index), (OUTPUT_NODE, slot), output["type"]))
    return {"id": str(uuid.uuid5(NAMESPACE, f"output {name}")), "name": name, "type": output["type"], "linkIds": output["links"][-1:]}


def _outer_node(blueprint: Blueprint, subgraph: Mapping[str, Any], nodes: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    node = _place(OUTER_NODE, subgraph["id"], 0, 0, (400, 520))
    for entry, (node_id, name) in zip(subgraph["inputs"], blueprint.inputs.values(), strict=True):
        inner = next(inner for inner in nodes[node_id]["inputs"] if inner["name"] == name)
        widget = {"widget": {"name": entry["name"]}} if "widget" in inner else {}
        node["inputs"].append({"name": entry["name"], "type": entry["type"], "link": None, **widget})
    node["outputs"] = [{"name": entry["name"], "type": entry["type"], "links": []} for entry in subgraph["outputs"]]
    return {**node, "properties": {"proxyWidgets": [], "cnr_id": OUR_PACK}, "widgets_values": [], "title": blueprint.name}


def make_graph(groups: Sequence[Group], object_info: Info) -> Graph:
    """Groups from left to right, each with its note on top."""
    graph, left = Graph(), 0
    nodes = {node.id: node for group in groups for node in group.nodes}
    for index, group in enumerate(groups):
        top = NOTE_HEIGHT + TITLE + GAP
        note = _place(FIRST_NOTE + index, "MarkdownNote", left, 0, (group.width, NOTE_HEIGHT))
        graph.nodes.append({**note, "title": "Note", "widgets_values": [_unwrapped(group.note)], "color": "#222", "bgcolor": "#000"})
        for node in group.nodes:
            height = node.height or HEIGHTS[node.type]
            graph.nodes.append(_make_node(node, (left, top), (group.width, height), object_info[node.type]))
            top += height + TITLE + GAP
        left += group.width + GROUP_GAP
    _connect_all(graph, nodes, object_info)
    graph.nodes.sort(key=lambda node: node["id"])
    for order, node in enumerate(_in_order(graph)):
        node["order"] = order
    graph.groups = list(_frames(groups, graph))
    return graph


def _unwrapped(text: str) -> str:
    """Markdown with one line per paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def _place(node_id: int, kind: str, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    place = {"id": node_id, "type": kind, "pos": [left, top], "size": list(size), "flags": {}, "order": 0, "mode": 0}
    return {**place, "inputs": [], "outputs": [], "properties": {}}


def _make_node(node: Node, place: tuple[int, int], size: tuple[int, int], info: Info) -> dict[str, Any]:
    made = _place(node.id, node.type, *place, size)
    made["inputs"] = [_input(*spec, info) for spec in input_specs(info) if not is_widget(*spec[1:])]
    made["outputs"] = [{"name": name, "type": kind, "links": []} for name, kind in zip(info["output_name"], info["output"], strict=True)]
    ours = info["python_module"].startswith("custom_nodes.")
    made["properties"] = {"cnr_id": OUR_PACK if ours else CORE_PACK, "Node name for S&R": node.type}
    made["widgets_values"] = list(_widget_values(node, info))
    if files := [_model(value) for value in node.values.values() if _model(value)]:
        made["properties"]["models"] = files
    return {**made, "title": node.title} if node.title else made


def _input(name: str, kind: Any, options: Info, info: Info) -> dict[str, Any]:
    entry = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
    if name in info["input"].get("optional", {}):
        entry["shape"] = OPTIONAL_SHAPE
    return {**entry, "widget": {"name": name}} if is_widget(kind, options) else entry


def slot_of(made: dict[str, Any], name: str, info: Info) -> int:
    """Index of an input; the widgets get sockets, behind the others, when one of them is asked for."""
    if name not in [entry["name"] for entry in made["inputs"]]:
        made["inputs"] += [_input(*spec, info) for spec in input_specs(info) if is_widget(*spec[1:])]
    return [entry["name"] for entry in made["inputs"]].index(name)


def input_specs(info: Info) -> Iterator[tuple[str, Any, Info]]:
    """Name, type and options of every input, in the order of the schema."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            yield name, kind, rest[0] if rest else {}


def _widget_values(node: Node, info: Info) -> Iterator[Any]:
    unknown = set(node.values) - {name for name, *_ in input_specs(info)}
    if unknown:
        raise ValueError(f"{node.type} has no input {', '.join(unknown)}")
    for name, kind, options in input_specs(info):
        if is_widget(kind, options):
            yield node.values.get(name, _default(kind, options))
            yield from [COMPANION_VALUES.get(name)] * companions(name, kind, options)


def _default(kind: Any, options: Info) -> Any:
    choices = kind if isinstance(kind, list) else options.get("options", [None])
    first = choices[0] if choices else None
    return options.get("default", first["key"] if isinstance(first, dict) else first)


def _model(value: Any) -> dict[str, str] | None:
    """What the front end needs to offer a file for download."""
    if value in STOCK_MODELS:
        folder, url = STOCK_MODELS[value]
        return {"name": value, "url": url, "directory": folder}
    file = by_name(value) if isinstance(value, str) else None
    return None if file is None else {"name": file.name, "url": file.url, "directory": file.folder}


def _connect_all(graph: Graph, nodes: Mapping[int, Node], object_info: Info) -> None:
    by_id = {node["id"]: node for node in graph.nodes}
    for node_id, node in sorted(nodes.items()):
        for name, (origin, output_name) in node.sources.items():
            slot = slot_of(by_id[node_id], name, object_info[node.type])
            index = object_info[nodes[origin].type]["output_name"].index(output_name)
            output = by_id[origin]["outputs"][index]
            number = graph.connect((origin, index), (node_id, slot), output["type"])
            by_id[node_id]["inputs"][slot]["link"] = number
            output["links"].append(number)


def _in_order(graph: Graph) -> list[dict[str, Any]]:
    """The nodes, each behind those that it takes from."""
    waiting, done = list(graph.nodes), []
    while waiting:
        known = {node["id"] for node in done} | {INPUT_NODE}
        ready = [node for node in waiting if all(link[1] in known for link in graph.links if link[3] == node["id"])]
        done += ready
        waiting = [node for node in waiting if node not in ready]
    return done


def _frames(groups: Sequence[Group], graph: Graph) -> Iterator[dict[str, Any]]:
    bottom = max(node["pos"][1] + node["size"][1] for node in graph.nodes)
    left = 0
    for index, (group, colour) in enumerate(zip(groups, COLOURS, strict=False)):
        bounding = [left - MARGIN, -80, group.width + 2 * MARGIN, bottom + 80 + MARGIN]
        yield {"id": index + 1, "title": group.title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}
        left += group.width + GROUP_GAP

"""Make workflows/, docs/api/ and subgraphs/ from graphs.py and what a ComfyUI says about its nodes; scripts/update writes them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.models.files import by_name

from .blueprints import BLUEPRINTS
from .convert import companions, is_widget, ui_to_api
from .graphs import COMMAND_LINE, WORKFLOWS
from .layout import frames, height_of, places, unwrapped, view
from .parts import STOCK_MODELS, Blueprint, Group, Node, Workflow
from .subgraphs import INPUT_NODE, OUTPUT_NODE

Info = Mapping[str, Any]
Json = dict[str, Any]

NAMESPACE = uuid.UUID("4c1b7e1e-53d6-4f3c-9a51-0f2b7c6d8e11")
OUR_PACK, CORE_PACK = "wan-s2v", "comfy-core"
OUR_MODULE = "custom_nodes."
COMPANION_VALUES = {"seed": "fixed", "image": "image", "file": "image", "audio": None}  # what the canvas puts behind these widgets
OUTER_NODE = 51  # the node of a blueprint in its own file
FIRST_NOTE, FIRST_INNER_NOTE = 71, 31  # ids below are for nodes; the front end wants those in a subgraph to differ from those around it
OPTIONAL_SHAPE = 7
WINDOW = (1920, 950)


@dataclass
class Graph:
    """Nodes and links as the canvas saves them; a link is (id, from node, slot, to node, slot, type)."""

    nodes: list[Json] = field(default_factory=list)
    links: list[tuple[int, int, int, int, int, str]] = field(default_factory=list)
    groups: list[Json] = field(default_factory=list)

    def connect(self, source: tuple[int, int], target: tuple[int, int], kind: str) -> int:
        number = len(self.links) + 1
        self.links.append((number, *source, *target, kind))
        return number


def make_files(object_info: Info) -> dict[str, str]:
    """Path in this checkout -> text of every file."""
    files = {f"subgraphs/{blueprint.name}.json": make_blueprint(blueprint, object_info) for blueprint in BLUEPRINTS}
    for workflow in WORKFLOWS:
        files[workflow.file] = made = make_workflow(workflow, object_info)
        files[f"docs/api/{workflow.name}.json"] = ui_to_api(made, object_info)
    files["cli/workflows/quick_start.json"] = ui_to_api(make_workflow(COMMAND_LINE, object_info), object_info)
    return {path: json.dumps(content, ensure_ascii=False, indent=2) + "\n" for path, content in files.items()}


def make_workflow(workflow: Workflow, object_info: Info) -> Json:
    """The workflow as the canvas saves it."""
    used = [blueprint for blueprint in BLUEPRINTS if any(node.type == blueprint.name for node in workflow.nodes)]
    subgraphs = {blueprint.name: make_subgraph(blueprint, object_info) for blueprint in used}
    known = {**object_info, **{item.name: blueprint_info(item, subgraphs[item.name], object_info) for item in used}}
    graph = make_graph(workflow.groups, known, FIRST_NOTE)
    made = _document(workflow.name, graph, {"ds": view(graph.nodes, WINDOW)})
    if subgraphs:
        made["definitions"] = {"subgraphs": list(subgraphs.values())}
    if workflow.app is not None:
        form = {"inputs": [[str(node), widget] for node, widget in workflow.app.inputs], "outputs": list(map(str, workflow.app.outputs))}
        made["extra"] |= {"linearData": form, "linearMode": True}
    return made


def _document(name: str, graph: Graph, extra: Json) -> Json:
    return {
        "id": str(uuid.uuid5(NAMESPACE, name)),
        "revision": 0,
        "last_node_id": max(node["id"] for node in graph.nodes),
        "last_link_id": len(graph.links),
        "nodes": graph.nodes,
        "links": [list(link) for link in graph.links],
        "groups": graph.groups,
        "config": {},
        "extra": extra,
        "version": 0.4,
    }


# --- blueprints


def make_blueprint(blueprint: Blueprint, object_info: Info) -> Json:
    """A workflow of one node, with the subgraph that it stands for."""
    subgraph = make_subgraph(blueprint, object_info)
    node, info = Node(OUTER_NODE, blueprint.name, title=blueprint.name), blueprint_info(blueprint, subgraph, object_info)
    graph = Graph([_make_node(node, (0, 0, 400, height_of(node, info)), info)])
    search = {"BlueprintSearchAliases": list(blueprint.search_aliases), "BlueprintDescription": blueprint.description}
    return {**_document(f"{blueprint.name} workflow", graph, search), "definitions": {"subgraphs": [subgraph]}}


def make_subgraph(blueprint: Blueprint, object_info: Info) -> Json:
    """The definition that a node of this blueprint stands for."""
    graph = make_graph(blueprint.groups, object_info, FIRST_INNER_NOTE)
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
    return {
        "id": str(uuid.uuid5(NAMESPACE, blueprint.name)),
        "version": 1,
        "state": {"lastGroupId": len(graph.groups), "lastNodeId": max(nodes), "lastLinkId": len(graph.links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INPUT_NODE, "bounding": [-240, bottom // 3, 160, 20 * len(inputs) + 40]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 80, bottom // 3, 130, 20 * len(outputs) + 40]},
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


def blueprint_info(blueprint: Blueprint, subgraph: Json, object_info: Info) -> Json:
    """What /object_info would say about a node of this blueprint; each widget has the value that it has inside."""
    nodes = {node.id: node for group in blueprint.groups for node in group.nodes}
    inputs = {}
    for name, (node_id, input_name) in blueprint.inputs.items():
        node = nodes[node_id]
        kind, options = next((kind, options) for known, kind, options in input_specs(object_info[node.type]) if known == input_name)
        default = node.values.get(input_name, _default(kind, options))
        inputs[name] = (kind, {**options, "default": default, "widget": is_widget(kind, options)})
    previews = [{"name": name, "sourceNodeId": str(node), "sourcePreviewName": name} for name, node in blueprint.previews.items()]
    return {
        "input": {"required": inputs},
        "output": [entry["type"] for entry in subgraph["outputs"]],
        "output_name": [entry["name"] for entry in subgraph["outputs"]],
        "python_module": OUR_MODULE,
        "subgraph": subgraph["id"],
        "previews": previews,
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


# --- nodes and links


def make_graph(groups: Sequence[Group], object_info: Info, first_note: int) -> Graph:
    """Columns from left to right."""
    graph = Graph()
    nodes = {node.id: node for group in groups for node in group.nodes}
    heights = {node.id: height_of(node, object_info[node.type]) for node in nodes.values()}
    for index, (group, node, box) in enumerate(places(groups, heights)):
        made = _note(first_note + index, group.note, box) if node is None else _make_node(node, box, object_info[node.type])
        graph.nodes.append(made)
    _connect_all(graph, nodes, object_info)
    graph.nodes.sort(key=lambda node: node["id"])
    for order, node in enumerate(_in_order(graph)):
        node["order"] = order
    graph.groups = list(frames(groups, max(node["pos"][1] + node["size"][1] for node in graph.nodes)))
    return graph


def _place(node_id: int, kind: str, box: tuple[int, int, int, int]) -> Json:
    left, top, width, height = box
    place = {"id": node_id, "type": kind, "pos": [left, top], "size": [width, height], "flags": {}, "order": 0, "mode": 0}
    return {**place, "inputs": [], "outputs": [], "properties": {}}


def _note(node_id: int, text: str, box: tuple[int, int, int, int]) -> Json:
    note = _place(node_id, "MarkdownNote", box)
    return {**note, "title": "Note", "widgets_values": [unwrapped(text)], "color": "#432", "bgcolor": "#653"}


def _make_node(node: Node, box: tuple[int, int, int, int], info: Info) -> Json:
    subgraph = info.get("subgraph")
    made = _place(node.id, subgraph or node.type, box)
    shown = [spec for spec in input_specs(info) if subgraph or not is_widget(*spec[1:])]
    made["inputs"] = [_input(*spec, info) for spec in shown]
    made["outputs"] = [{"name": name, "type": kind, "links": []} for name, kind in zip(info["output_name"], info["output"], strict=True)]
    pack = {"cnr_id": OUR_PACK if info["python_module"].startswith(OUR_MODULE) else CORE_PACK}
    shown_inside = {"proxyWidgets": [], "previewExposures": info.get("previews")}
    made["properties"] = {**pack, **(shown_inside if subgraph else {"Node name for S&R": node.type})}
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
            if "subgraph" not in info:
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

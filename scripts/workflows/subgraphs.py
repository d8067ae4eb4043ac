"""Take the subgraphs out of a workflow, as the front end does before it queues one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

INPUT_NODE, OUTPUT_NODE = -10, -20  # stand for the sockets of the subgraph itself

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """An output of a node."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Value:
    """What a widget on a subgraph node is set to."""

    value: Any


@dataclass
class Level:
    """The nodes and links of the workflow, or of one subgraph in it.

    Attributes:
        definitions: id -> subgraph.
        outer: the node that stands for this subgraph, in `parent`.
        prefix: in front of the ids of the nodes.
    """

    content: Json
    definitions: Json
    outer: Json = field(default_factory=dict)
    parent: Level | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        self.nodes = {node["id"]: node for node in self.content["nodes"]}
        self.links = dict(map(_ends, self.content["links"]))

    def enter(self, node: Json) -> Level:
        return Level(self.definitions[node["type"]], self.definitions, node, self, f"{self.prefix}{node['id']}:")

    def origin(self, link: Any) -> Source | Value | None:
        """Where a link begins once there are no subgraphs; None at an input of a subgraph to which nothing is given."""
        node_id, slot, *_ = self.links[link]
        if node_id == INPUT_NODE:
            return self._given(slot)
        node = self.nodes[node_id]
        if node["type"] not in self.definitions:
            return Source(f"{self.prefix}{node_id}", slot)
        inner = self.enter(node)
        return inner.origin(next(key for key, ends in inner.links.items() if ends[2:] == (OUTPUT_NODE, slot)))

    def _given(self, slot: int) -> Source | Value | None:
        """What the node that stands for this subgraph has at an input."""
        entry = self.outer["inputs"][slot]
        if self.parent is not None and entry.get("link") is not None:
            return self.parent.origin(entry["link"])
        widgets = [other["name"] for other in self.outer["inputs"] if "widget" in other]
        values = dict(zip(widgets, self.outer.get("widgets_values") or [], strict=False))
        return Value(values[entry["name"]]) if entry["name"] in values else None

    def walk(self) -> Iterator[tuple[Level, Json]]:
        """Every node that is no subgraph, and where it is."""
        for node in self.nodes.values():
            if node["type"] in self.definitions:
                yield from self.enter(node).walk()
            else:
                yield self, node


def flat_nodes(workflow: Json) -> Iterator[tuple[str, Json, dict[str, Source | Value]]]:
    """The nodes of a workflow without its subgraphs.

    Args:
        workflow: UI format, version 0.4.
    Returns:
        Id, with those of the subgraph nodes around it ("5:3"); the node; and input -> what is given to it from elsewhere.
    """
    definitions = {item["id"]: item for item in workflow.get("definitions", {}).get("subgraphs", [])}
    for level, node in Level(workflow, definitions).walk():
        links = {entry["name"]: entry["link"] for entry in node.get("inputs", []) if entry.get("link") is not None}
        origins = {name: level.origin(link) for name, link in links.items()}
        yield f"{level.prefix}{node['id']}", node, {name: origin for name, origin in origins.items() if origin is not None}


def _ends(link: Any) -> tuple[Any, tuple[Any, int, Any, int]]:
    """Id and ends of a link: a list in a workflow, an object in a subgraph."""
    if isinstance(link, Mapping):
        return link["id"], (link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
    number, origin, origin_slot, target, target_slot, *_ = link
    return number, (origin, origin_slot, target, target_slot)

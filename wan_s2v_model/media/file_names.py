"""The beginning of a file's name as a user writes it: patterns that stand for values, and what no disk can hold."""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..untrusted import shown

PATTERN = re.compile(r"%([^%]+)%")
DATE = "date:"
DATE_PART = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyyy|yyy|yy")
DATE_PARTS: dict[str, Callable[[datetime], int]] = {
    "d": lambda now: now.day,
    "M": lambda now: now.month,
    "h": lambda now: now.hour,
    "m": lambda now: now.minute,
    "s": lambda now: now.second,
}
ILLEGAL = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')  # on Windows, and on the drives and clouds that follow it
ILLEGAL_IN_VALUE = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
HALF = re.compile(r"[\ud800-\udfff]")  # of a character
MOST_VALUE = 40  # characters of what stands for a pattern
MOST_IN_ALL = 1000  # bytes of a prefix with its folders
MOST_BYTES = 200  # of one name; 255 are allowed, and a number and an ending follow


def fill_in(prefix: str, prompt: Mapping[str, Any] | None, workflow: Mapping[str, Any] | None, now: datetime) -> tuple[str, list[str]]:
    """Replace the patterns that ComfyUI's front end replaces for its own nodes, `%date:...%` and `%Node.widget%`.

    The front end knows only ComfyUI's own nodes by name, and is not there when a prompt comes over the API. `%year%`, `%width%` and such
    are left for ComfyUI's server, which knows them.

    Args:
        prompt: nodes by id, each with class_type, inputs and perhaps _meta.title. workflow: the graph of the canvas, if there is one.
    Returns:
        The prefix, and the patterns for which there is no value; they stay, without what is illegal in a name.
    """
    unknown: list[str] = []

    def value(match: re.Match[str]) -> str:
        inner = match[1]
        if inner.startswith(DATE):
            return ILLEGAL.sub("_", _date(inner.removeprefix(DATE), now))[:MOST_VALUE]
        if inner.count(".") == 0:
            return match[0]
        node, _, widget = inner.rpartition(".")
        found = _widget_value(node, widget, prompt or {}, workflow or {})
        if found is None:
            unknown.append(match[0])
            return f"%{_clean(inner)}%"
        return _clean(str(found))

    return PATTERN.sub(value, prefix), unknown


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a prefix, None if nothing. Patterns that become values later are taken as good."""
    normal = prefix.replace("\\", "/")
    if posixpath.isabs(normal) or ".." in normal.split("/"):
        return f"filename_prefix must stay inside ComfyUI's output folder, got {shown(prefix)}."
    if len(normal.encode(errors="replace")) > MOST_IN_ALL:
        return f"filename_prefix is longer than {MOST_IN_ALL} bytes. Shorten it."
    names = posixpath.normpath(PATTERN.sub(_stand_in, normal)).split("/")
    if names == ["."]:
        return "filename_prefix is empty, which would make a hidden file. Give the file a name."
    return next(filter(None, map(_name_problem, names)), None)


def windows_problem(name: str) -> str | None:
    """Why Windows takes no file or folder of this name, and what to do, None if it takes one; of its letters each is taken as good."""
    if RESERVED.fullmatch(name):
        return "is a name that Windows keeps for itself. Choose another."
    if name != name.rstrip(". ") or name != name.lstrip(" "):
        return "begins or ends with a space or ends with a dot, which Windows drops. Remove it."
    return None


def same_but_for_case(path: Path) -> str | None:
    """What lies in the place of a path that is not there, for a disk that takes upper and lower case alike, as on Windows and macOS."""
    names = {found.name for found in path.parent.iterdir()} if path.parent.is_dir() else set()
    same = (name for name in sorted(names) if name.casefold() == path.name.casefold())
    return None if path.name in names else next(same, None)


def _stand_in(match: re.Match[str]) -> str:
    """What a pattern becomes, as far as the name's characters go."""
    return "0" if match[1].startswith(DATE) or "." in match[1] else match[0]


def _name_problem(name: str) -> str | None:
    if found := ILLEGAL.search(name):
        return f"filename_prefix holds {found[0]!r}, which not every disk takes in a name, in {shown(name)}. Remove it."
    if problem := windows_problem(name):
        return f"filename_prefix: {shown(name)} {problem}"
    if any(unicodedata.category(letter) == "Cs" for letter in name) or len(name.encode(errors="replace")) > MOST_BYTES:
        return f"filename_prefix: {name[:40]!r}... is longer than {MOST_BYTES} bytes or holds half a character. Shorten it."
    return None


def _date(form: str, now: datetime) -> str:
    """Letters as the front end reads them: yyyy or yy, MM or M, dd or d, hh or h (24 hours), mm or m, ss or s."""

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text[0] == "y":
            return f"{now.year:04}"[-2 if len(text) == 2 else 0 :]
        return f"{DATE_PARTS[text[0]](now):0{len(text)}}"

    return DATE_PART.sub(part, form)


def _clean(value: str) -> str:
    return HALF.sub("_", ILLEGAL_IN_VALUE.sub("_", value[:MOST_VALUE]))


def _widget_value(name: str, widget: str, prompt: Mapping[str, Any], workflow: Mapping[str, Any]) -> Any:
    """A widget's value of the first node with that name, None if there is none or it comes over a link."""
    for node_id in _ids(name, prompt, workflow):
        value = prompt.get(node_id, {}).get("inputs", {}).get(widget)
        if value is not None and not isinstance(value, list | dict):
            return value
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a client calls a mapping, if it is one."""
    return value if isinstance(value, Mapping) else {}


def _ids(name: str, prompt: Mapping[str, Any], workflow: Mapping[str, Any]) -> list[str]:
    """Numbers of the nodes that have the name: first those that the user renamed for this, then by type, then by title."""
    listed = _mapping(workflow).get("nodes")
    drawn = [node for node in listed if isinstance(node, Mapping)] if isinstance(listed, list) else []
    renamed = [str(node.get("id")) for node in drawn if _mapping(node.get("properties")).get("Node name for S&R") == name]
    typed = [node_id for node_id, node in prompt.items() if node.get("class_type") == name]
    titled = [node_id for node_id, node in prompt.items() if _mapping(node.get("_meta")).get("title") == name]
    titled += [str(node.get("id")) for node in drawn if node.get("title") == name]
    return [*renamed, *typed, *titled]

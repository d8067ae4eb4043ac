"""Draw the rooms of the pack and what they import, as docs/images/map.svg: run it without arguments after a room or an import is new."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "wan_s2v_model"
PICTURE = "docs/images/map.svg"
WAY = (  # of a sound to a frame, as docs/map.md tells it
    *("media", "audio", "checkpoints", "conditioning", "cost", "sampling", "comfy_bridge", "transformer", "kernels"),
    *("runs", "reports"),
)
COLUMNS = {  # where a room stands on its floor
    **{"nodes": 1.1, "runs": 0.0, "comfy_bridge": 1.1, "reports": 2.35, "cost": 0.7, "sampling": 1.65},
    **{"conditioning": 2.15, "audio": 2.15, "media": 2.15, "checkpoints": 0.25, "transformer": 0.25, "kernels": 0.25},
}
BOX, STEP, MARGIN = (270, 62), (300, 104), 20  # px: width and height; from box to box
LINE_CHARACTERS = 36
NODES = "Node classes and nothing else; may use every room"
EVERYWHERE = "Modules beside the rooms, for all of them: "
STYLE = """
text { font: 12px sans-serif; fill: #24292f; }
.name { font-weight: bold; font-size: 15px; }
.step { fill: #fff; font-weight: bold; text-anchor: middle; }
rect { fill: #eef4fb; stroke: #6b93bd; }
circle { fill: #4a7fb5; }
line { stroke: #8896a5; stroke-width: 1.5; }
"""
ARROW_HEAD = '<path d="M0 0 8 4 0 8z" fill="#8896a5"/>'

Module = tuple[str, ...]  # path below the root, without suffix
Arrows = dict[str, set[str]]


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_of(root: Path, path: Path) -> Module:
    return path.relative_to(root).with_suffix("").parts


def imports_of(root: Path, path: Path) -> Iterator[tuple[Module | None, str]]:
    """Every import of a file, in functions too: (module below the root, None where it is absolute; dotted name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = (*module_of(root, path)[: -node.level], *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield _existing(root, base, alias.name), "." * node.level + (node.module or alias.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("__import__", "import_module"):
            yield None, f"{ast.unparse(node.func)}()"


def _existing(root: Path, base: Module, name: str) -> Module:
    """The module that holds `name`: a file or folder of that name, or the one it is imported from."""
    for module in ((*base, name), base):
        if root.joinpath(*module, "__init__.py").is_file():
            return (*module, "__init__")
        if root.joinpath(*module).with_suffix(".py").is_file():
            return module
    return base


def room_of(module: Module) -> str:
    """The folder of a module: one of the package, or at the root; the package itself for the modules beside its folders."""
    return module[1] if module[:1] == (PACKAGE,) and len(module) > 2 else "".join(module[:1])


def arrows(root: Path) -> Arrows:
    """What each room imports of the others; modules beside the rooms are left out."""
    found: Arrows = {path.parent.name: set() for path in (root / PACKAGE).glob("*/__init__.py")} | {"nodes": set()}
    for path in sources(root, PACKAGE, "nodes"):
        room = room_of(module_of(root, path))
        if room in found:
            found[room] |= {room_of(target) for target, _ in imports_of(root, path) if target} & found.keys() - {room}
    return found


def without_detours(found: Arrows) -> Arrows:
    """The arrows that do not follow from others."""
    below = {room: targets | {far for near in targets for far in _reached(found, near)} for room, targets in found.items()}
    return {room: {target for target in targets if not any(target in below[other] for other in targets)} for room, targets in found.items()}


def _reached(found: Arrows, room: str) -> set[str]:
    return found[room] | {far for near in found[room] for far in _reached(found, near)}


def floors(found: Arrows) -> dict[str, int]:
    """Floor of each room, 0 on top: one below the lowest room that imports it."""
    importers = {room: [other for other, targets in found.items() if room in targets] for room in found}

    def floor(room: str) -> int:
        return 1 + max(map(floor, importers[room]), default=-1)

    return {room: floor(room) for room in found}


def draw(root: Path) -> str:
    """The picture as SVG text."""
    found = arrows(root)
    corners = {room: (MARGIN + COLUMNS[room] * STEP[0], MARGIN + row * STEP[1]) for room, row in floors(found).items()}
    width, height = max(x for x, _ in corners.values()) + BOX[0] + MARGIN, max(y for _, y in corners.values()) + STEP[1] + 2 * MARGIN
    marker = f'<defs><marker id="head" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">{ARROW_HEAD}</marker></defs>'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">']
    parts += [f"<style>{STYLE}</style>", marker, f'<rect width="{width:g}" height="{height:g}" style="fill: #fff; stroke: none"/>']
    parts += [_arrow(corners, room, target) for room, targets in sorted(without_detours(found).items()) for target in sorted(targets)]
    parts += [_box(root, room, corner) for room, corner in corners.items()]
    beside = ", ".join(sorted(path.stem for path in (root / PACKAGE).glob("*.py") if path.stem != "__init__"))
    parts += [_text(MARGIN, height - MARGIN, EVERYWHERE + beside)]
    return "\n".join([*parts, "</svg>", ""])


def _arrow(corners: Mapping[str, tuple[float, float]], room: str, target: str) -> str:
    (x1, y1), (x2, y2) = corners[room], corners[target]
    ends = f'x1="{x1 + BOX[0] / 2:g}" y1="{y1 + BOX[1]:g}" x2="{x2 + BOX[0] / 2:g}" y2="{y2:g}"'
    return f'<line {ends} marker-end="url(#head)"/>'


def _box(root: Path, room: str, corner: tuple[float, float]) -> str:
    x, y = corner
    parts = [f'<g id="{room}"><rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>', _text(x + 10, y + 20, room, "name")]
    parts += [_text(x + 10, y + 38 + 15 * row, line) for row, line in enumerate(textwrap.wrap(purpose(root, room), LINE_CHARACTERS))]
    if room in WAY:
        parts += [f'<circle cx="{x + BOX[0] - 16:g}" cy="{y + 16:g}" r="11"/>']
        parts += [_text(x + BOX[0] - 16, y + 20, str(WAY.index(room) + 1), "step")]
    return "\n".join([*parts, "</g>"])


def _text(x: float, y: float, text: str, style: str = "note") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(text)}</text>'


def purpose(root: Path, room: str) -> str:
    """The first half of the room's docstring, up to the colon."""
    if room == "nodes":
        return NODES
    text = ast.get_docstring(ast.parse((root / PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.split(":")[0]


if __name__ == "__main__":
    (ROOT / PICTURE).write_text(draw(ROOT), encoding="utf-8")

"""Every template as it opens for somebody who has changed nothing in ComfyUI: no grey walls, nothing covered."""

from __future__ import annotations

import pytest

from .appearance import NODES_2, PALETTE, SHOWN_AS_INSTALLED, overlapping, unreadable
from .workflows import APP, FILES, QUICK_START, read

WINDOW, SMALL_WINDOW = (1920, 950), (1366, 680)
LOOKS = [
    pytest.param(nodes_2, palette, id=f"{'nodes 2.0' if nodes_2 else 'canvas'}, {palette}")
    for nodes_2 in (False, True)
    for palette in ("dark", "light")
]
IN_NODES = {name: path for name, path in FILES.items() if path != APP}


@pytest.fixture
def as_installed(canvas):
    before = canvas.page.viewport_size
    yield canvas
    canvas.page.set_viewport_size(before)
    canvas.open(**{NODES_2: False, PALETTE: "dark"})


def open_in(canvas, path, window):
    canvas.page.set_viewport_size(dict(zip(("width", "height"), window, strict=True)))
    canvas.open_template(read(path), path.stem)


@pytest.mark.parametrize(("nodes_2", "palette"), LOOKS)
def test_every_template_can_be_read_when_it_opens(nodes_2, palette, as_installed, picture):
    """All in one page: it takes longer to load than a template."""
    as_installed.open(**SHOWN_AS_INSTALLED, **{NODES_2: nodes_2, PALETTE: palette})
    problems = {}
    for name, path in IN_NODES.items():
        open_in(as_installed, path, WINDOW)
        problems[name] = [*unreadable(as_installed.page), *overlapping(as_installed.page)]
        picture(f"opened_{name}_{'nodes_2' if nodes_2 else 'canvas'}_{palette}")
    open_in(as_installed, QUICK_START, SMALL_WINDOW)
    problems["in a small window"] = [*unreadable(as_installed.page), *overlapping(as_installed.page)]
    assert {name: found for name, found in problems.items() if found} == {}

"""ComfyUI's canvas in a headless Chromium: load a workflow, look for broken nodes, take a picture."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, sync_playwright

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
START_TIMEOUT_MS = 60_000
RUN_TIMEOUT_MS = 120_000
SETTLE_MS = 1_500  # widgets, previews and fonts load after the graph itself

READY = "() => window.app?.graph && window.app.extensionManager && !document.querySelector('#comfy-splash')"
LOAD_GRAPH = "([workflow, name, openSource]) => window.app.loadGraphData(workflow, true, true, name, { openSource })"
RUN_NODE = "id => window.app.queuePrompt(0, 1, [id])"
HAS_PICTURE = "id => window.app.graph.getNodeById(id)?.imgs?.length > 0"
SERIALIZE = "() => window.app.graph.serialize()"
API_FORMAT = "async () => (await window.app.graphToPrompt()).output"
FIND_PROBLEMS = """() => window.app.graph.nodes.flatMap(node => {
    const problems = [];
    if (!(node.type in LiteGraph.registered_node_types)) problems.push(`${node.type}: unknown node`);
    if (node.has_errors) problems.push(`${node.type}: marked red`);
    for (const input of node.inputs ?? [])
        if (input.link == null && !input.widget && input.shape !== 7) problems.push(`${node.type}.${input.name}: not connected`);
    for (const widget of node.widgets ?? []) {
        const values = widget.options?.values;
        if (widget.type === 'combo' && Array.isArray(values) && !values.includes(widget.value))
            problems.push(`${node.type}.${widget.name}: "${widget.value}" is not among the choices`);
    }
    return problems;
})"""
FIT_VIEW = """margin => {
    const { canvas, graph } = window.app;
    const boxes = [...graph.groups.map(group => group.boundingRect), ...graph.nodes.map(node => node.boundingRect)];
    const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]));
    const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]));
    const width = canvas.canvas.clientWidth - margin.left - margin.right;
    const height = canvas.canvas.clientHeight - margin.top - margin.bottom;
    const scale = Math.min(width / (right - left), height / (bottom - top));
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = margin.left / scale - left + (width / scale - (right - left)) / 2;
    canvas.ds.offset[1] = margin.top / scale - top;
    canvas.setDirty(true, true);
}"""
JOB_MESSAGE = re.compile(r"^\s*Job (queued|completed)")  # covers the canvas for some seconds
MARGIN = {"left": 70, "top": 100, "right": 20, "bottom": 20}  # room for the side bar and the menu


def find_browser() -> str | None:
    """Return the path of an installed Chromium, None when there is none."""
    return next((path for name in BROWSER_NAMES if (path := shutil.which(name))), None)


class Canvas:
    """One page with ComfyUI's front end."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, **settings: bool | float | str) -> None:
        """Load the page anew, without tutorial and dialogs.

        Args:
            settings: of the front end, by their names, in place of ours.
        """
        self.page.request.post(f"{self.url}/api/settings", data={**SETTINGS, **settings})
        self.page.goto(self.url)
        self.page.wait_for_function(READY, timeout=START_TIMEOUT_MS)
        self.page.wait_for_timeout(SETTLE_MS)

    def load(self, workflow: Mapping[str, Any], name: str) -> None:
        """Put a workflow (UI format) onto the canvas under a name and fit it to the view."""
        self.page.evaluate(LOAD_GRAPH, [workflow, name, "file"])
        self.page.wait_for_timeout(SETTLE_MS)
        self.fit_view()
        self.page.wait_for_timeout(SETTLE_MS)

    def open_template(self, workflow: Mapping[str, Any], name: str) -> None:
        """Show a workflow as the dialog of templates does, which fits it to the window by itself."""
        self.page.evaluate(LOAD_GRAPH, [workflow, name, "template"])
        self.page.wait_for_timeout(2 * SETTLE_MS)

    def fit_view(self) -> None:
        """Zoom so that the whole graph is in view."""
        self.page.evaluate(FIT_VIEW, MARGIN)

    def run_until_picture(self, node_id: int) -> None:
        """Run the part of the graph that ends in a preview node, and wait until its picture is shown."""
        self.page.evaluate(RUN_NODE, str(node_id))
        self.page.wait_for_function(HAS_PICTURE, arg=node_id, timeout=RUN_TIMEOUT_MS)
        self.page.wait_for_timeout(SETTLE_MS)
        self.page.get_by_text(JOB_MESSAGE).first.wait_for(state="hidden", timeout=RUN_TIMEOUT_MS)

    def problems(self) -> list[str]:
        """Return what is wrong with the nodes on the canvas, in words."""
        return self.page.evaluate(FIND_PROBLEMS)

    def serialized(self) -> dict[str, Any]:
        """Return the workflow as the front end saves it."""
        return self.page.evaluate(SERIALIZE)

    def api_format(self) -> dict[str, Any]:
        """Return the prompt as the front end queues it."""
        return self.page.evaluate(API_FORMAT)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


@contextmanager
def open_canvas(url: str, *, browser: str, size: tuple[int, int] = (1920, 900)) -> Iterator[Canvas]:
    """Open ComfyUI's front end without tutorial and dialogs; nothing but the server itself is reached.

    Args:
        url: address of a running server.
        browser: path of a Chromium.
        size: width and height of the window in pixels.
    """
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=list(BROWSER_ARGUMENTS))
        try:
            page = chromium.new_page(viewport={"width": size[0], "height": size[1]})
            page.route("**/*", lambda route: _stay_local(route, url))
            canvas = Canvas(page, url)
            canvas.open()
            yield canvas
        finally:
            chromium.close()


def _stay_local(route: Route, url: str) -> None:
    if route.request.url.startswith((url, "data:", "blob:")):
        route.continue_()
    else:
        route.abort()

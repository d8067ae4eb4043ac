"""What a person does with the mouse and the keyboard on ComfyUI's canvas."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wan_s2v_pack.cli.comfyui.client import ComfyClient

if TYPE_CHECKING:  # the tests are collected, and skipped, without playwright too
    from playwright.sync_api import Locator, Page

MIME_TYPES = {
    **{".json": "application/json", ".png": "image/png", ".wav": "audio/wav"},
    **{".mp4": "video/mp4", ".webm": "video/webm"},
}
NODE_TIMEOUT_MS = 30_000
RUN_TIMEOUT_MS = 120_000
POLL_MS = 200
POLLS_PER_DOUBLE_CLICK = 25  # 5 s
POLLS_PER_SEARCH = 50  # 10 s
PLAY_TIMEOUT_MS = 20_000
SPINNER = ".p-blockui-mask"

# The canvas listens for drops on the whole document and finds the node from the position.
DROP = """([name, type, content, x, y]) => {
    const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true, clientX: x, clientY: y, dataTransfer: carried };
    for (const event of ['dragenter', 'dragover', 'drop'])
        window.app.canvas.canvas.dispatchEvent(new DragEvent(event, options));
}"""
CLEAR = "() => window.app.graph.clear()"
HAS_NODES = "count => window.app.graph.nodes.length === count"
WIDGET_POSITION = """([id, name]) => {
    const { canvas, graph } = window.app;
    const node = graph.getNodeById(id);
    const widget = node.widgets.find(widget => widget.name === name);
    const size = widget.computedHeight ?? LiteGraph.NODE_WIDGET_HEIGHT;
    const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + size / 2]);
    const frame = canvas.canvas.getBoundingClientRect();
    return [frame.left + x, frame.top + y];
}"""
NODE_POSITION = """id => {
    const { canvas, graph } = window.app;
    const node = graph.getNodeById(id);
    const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] - 10]);
    const frame = canvas.canvas.getBoundingClientRect();
    return [frame.left + x, frame.top + y];
}"""
SET_WIDGETS = """values => {  // in subgraphs too, on the subgraph node where it has the widget
    const visit = (graph, outer) => {
        for (const node of graph.nodes) {
            if (node.subgraph) visit(node.subgraph, node);
            for (const [name, value] of Object.entries(values[node.type] ?? {})) {
                const named = widget => widget.name === name, widget = outer?.widgets.find(named) ?? node.widgets?.find(named);
                if (!widget) continue;
                widget.value = value;
                widget.callback?.(value);
            }
        }
    };
    visit(window.app.graph);
}"""
WIDGET_VALUE = "([id, name]) => window.app.graph.getNodeById(id).widgets.find(widget => widget.name === name).value"
HAS_PICTURE = "id => window.app.graph.getNodeById(id)?.imgs?.length > 0"
FIND_VIDEO = "id => window.app.graph.getNodeById(id)?.widgets?.map(widget => widget.element?.querySelector?.('video')).find(Boolean)"
DESCRIBE_VIDEO = """video => ({
    duration: video.duration, played: video.currentTime, width: video.videoWidth, height: video.videoHeight,
    frames: video.getVideoPlaybackQuality().totalVideoFrames, sound_bytes: video.webkitAudioDecodedByteCount,
})"""
PLAY = f"""async id => {{
    const video = ({FIND_VIDEO})(id);
    video.muted = true;  // else the browser wants a click first
    video.loop = false;
    video.playbackRate = 4;
    await new Promise((resolve, reject) => {{
        video.onerror = () => reject(new Error(video.error.message));
        video.onended = resolve;
        setTimeout(() => reject(new Error(`stuck at ${{video.currentTime}} s of ${{video.duration}} s`)), {PLAY_TIMEOUT_MS});
        video.play().catch(reject);
    }});
    return ({DESCRIBE_VIDEO})(video);
}}"""
PEEK = f"""id => {{
    const video = ({FIND_VIDEO})(id);
    return video?.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && ({DESCRIBE_VIDEO})(video);
}}"""


class Person:
    """Works on one page and counts the clicks."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.clicks = 0

    # --- mouse

    def click(self, target: Locator) -> None:
        target.click()
        self.clicks += 1

    def click_widget(self, node_id: int, name: str) -> None:
        """Click the middle of a widget that is drawn on the canvas."""
        self.page.mouse.click(*self.page.evaluate(WIDGET_POSITION, [node_id, name]))
        self.clicks += 1

    def choose_file(self, node_id: int, path: Path) -> None:
        """Press a node's upload button and pick a file in the dialog."""
        with self.page.expect_file_chooser() as dialog, self.page.expect_response("**/upload/image"):
            self.click_widget(node_id, "upload")
            dialog.value.set_files(path)

    def type_number(self, node_id: int, name: str, value: float) -> None:
        """Double-click a number and type another one."""
        self.page.mouse.dblclick(*self.page.evaluate(WIDGET_POSITION, [node_id, name]))
        self.clicks += 2
        field = self.page.locator(".graphdialog input")
        field.fill(str(value))
        field.press("Enter")

    def double_click_until(self, target: Locator, at: tuple[int, int]) -> None:
        """Double-click on the canvas until something shows: a busy browser takes a slow double click for two clicks."""
        for poll in range(NODE_TIMEOUT_MS // POLL_MS):
            if poll % POLLS_PER_DOUBLE_CLICK == 0:
                self.page.mouse.dblclick(*at)
                self.clicks += 2
            self.page.wait_for_timeout(POLL_MS)
            if target.is_visible():
                return
        target.wait_for()

    def type_until(self, target: Locator, field: Locator, words: str) -> None:
        """Type into a search box until something shows alone: a busy browser loses letters while its list is loading."""
        for poll in range(NODE_TIMEOUT_MS // POLL_MS):
            if poll % POLLS_PER_SEARCH == 0:
                field.fill("")
                field.fill(words)
            self.page.wait_for_timeout(POLL_MS)
            if target.is_visible():
                return
        target.wait_for()

    def drop(self, path: Path, onto: int | None = None) -> None:
        """Drag a file from the desktop onto the empty canvas, or onto a node."""
        position = self.page.evaluate(NODE_POSITION, onto) if onto is not None else (5, self.page.viewport_size["height"] - 5)
        content = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(DROP, [path.name, MIME_TYPES[path.suffix], content, *position])

    def open_by_drop(self, path: Path, num_nodes: int) -> None:
        """Drop a file that holds a workflow and wait until its nodes are there."""
        self.page.evaluate(CLEAR)
        self.drop(path)
        self.wait_for_nodes(num_nodes)
        self.page.locator(SPINNER).wait_for(state="detached")  # it stays for good when another file is dropped while it fades

    def press_cancel(self) -> None:
        self.click(self.page.get_by_role("button", name="Cancel current run", exact=True))

    def press_run(self) -> dict[str, Any]:
        """Press Run and return the server's answer: the prompt's id and what is wrong with it."""
        with self.page.expect_response("**/prompt") as response:
            self.click(self.page.get_by_test_id("queue-button"))
        return response.value.json()

    # --- eyes

    def value(self, node_id: int, name: str) -> Any:
        """What a widget shows."""
        return self.page.evaluate(WIDGET_VALUE, [node_id, name])

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the canvas holds that many nodes."""
        self.page.wait_for_function(HAS_NODES, arg=count, timeout=NODE_TIMEOUT_MS)

    def wait_for_video(self, node_id: int) -> dict[str, float]:
        """Wait until a node shows the first frame of a video: its length and size, not played yet."""
        return self.page.wait_for_function(PEEK, arg=node_id, timeout=RUN_TIMEOUT_MS).json_value()

    def sees_picture(self, node_id: int) -> bool:
        """Whether a node shows a picture."""
        return self.page.evaluate(HAS_PICTURE, node_id)

    def wait_for_end(self, client: ComfyClient, prompt_id: str) -> str:
        """Wait until a prompt has ended and return how: "success" or "error"."""
        for _ in range(RUN_TIMEOUT_MS // POLL_MS):
            if record := client.history(prompt_id):
                return record["status"]["status_str"]
            self.page.wait_for_timeout(POLL_MS)
        raise TimeoutError(f"The prompt {prompt_id} has not ended after {RUN_TIMEOUT_MS / 1000:g} s.")

    def play(self, node_id: int) -> dict[str, float]:
        """Play a node's video to its end: its length, size, and how much was decoded."""
        return self.page.evaluate(PLAY, node_id)

    # --- no hands needed

    def set_widgets(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Give widgets other values: node type -> name -> value."""
        self.page.evaluate(SET_WIDGETS, values)

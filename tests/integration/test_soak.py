"""Many prompts through one server. Rare: WAN_S2V_SOAK=300 is the number of prompts; without it all is skipped.

What came of it stands in docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import os
import statistics

import psutil
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, PromptFailed, PromptInterrupted, PromptRefused
from wan_s2v_pack.cli.comfyui.server import ComfyServer

from .graphs import quick_start

PROMPTS = int(os.environ.get("WAN_S2V_SOAK", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROMPTS, reason="rare: set WAN_S2V_SOAK to a number of prompts, such as 300")]
SETTLED = 50  # prompts after which memory must not grow
MOST_SLOPE = 0.1  # MB per prompt
MB = 2**20


def figures(server: ComfyServer) -> tuple[float, int, int]:
    """Memory in MB, threads and open files of the server."""
    process = psutil.Process(server.pid)
    return server.memory_bytes() / MB, process.num_threads(), process.num_fds()


def slope(values: list[float]) -> float:
    return statistics.linear_regression(range(len(values)), values).slope


def digest(renderer, **changes) -> str:
    video = renderer.render(quick_start(**changes))
    return hashlib.sha256(video.luma.tobytes() + video.sound.tobytes()).hexdigest()


def cancelled(client: ComfyClient) -> None:
    with pytest.raises(PromptInterrupted):
        client.run(quick_start(steps=200, filename_prefix="soak/cancelled"), lambda step: client.interrupt(step_id(client)))


def step_id(client: ComfyClient) -> str:
    running, _ = client.queue_state()
    return running[0] if running else ""


def refused(client: ComfyClient) -> None:
    with pytest.raises((PromptRefused, PromptFailed)):
        client.run(quick_start(filename_prefix="../outside"))


def failed(client: ComfyClient) -> None:
    prompt = quick_start(filename_prefix="soak/failed")
    for node in prompt.values():
        if node["class_type"] == "WanS2VPrepare":
            node["inputs"]["image"] = 5  # a literal in place of a link
    with pytest.raises((PromptRefused, PromptFailed)):
        client.run(prompt)


def test_soak(server, client, renderer):
    temp = [path for path in server.base_directory.glob("temp/**/*") if path.is_file()]
    first = digest(renderer, seed=1, filename_prefix="soak/first")
    memory, threads, files = [], [], []
    for number in range(PROMPTS):
        kind = number % 6
        if kind == 3:
            cancelled(client)
        elif kind == 4:
            failed(client)
        elif kind == 5:
            refused(client)
        else:
            client.run(quick_start(seed=number, filename_prefix="soak/x", run_name=f"soak {number}" if kind == 2 else ""))
        for values, value in zip((memory, threads, files), figures(server), strict=True):
            values.append(value)
    client.free()
    begin = min(SETTLED, PROMPTS // 2)
    print(f"{PROMPTS} prompts: memory {memory[0]:.0f} to {memory[-1]:.0f} MB, {slope(memory[begin:]):.3f} MB per prompt; ", end="")
    print(f"threads {threads[begin]} to {threads[-1]}, open files {files[begin]} to {files[-1]}")
    assert digest(renderer, seed=1, filename_prefix="soak/last") == first
    assert threads[-1] <= max(threads[: begin + 1]) + 2
    assert files[-1] <= max(files[: begin + 1]) + 5
    assert len([path for path in server.base_directory.glob("temp/**/*") if path.is_file()]) <= len(temp) + PROMPTS  # previews of core
    if PROMPTS >= 100:
        assert slope(memory[begin:]) < MOST_SLOPE

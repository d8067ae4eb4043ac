"""Many prompts through one server, and many clients at once. Rare: WAN_S2V_SOAK=300 is the number of prompts; without it all is skipped.

What came of it stands in docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, PromptFailed, PromptInterrupted, PromptRefused
from wan_s2v_pack.cli.comfyui.server import ComfyServer

from .graphs import TWO_CLIPS, quick_start

PROMPTS = int(os.environ.get("WAN_S2V_SOAK", "0"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROMPTS, reason="rare: set WAN_S2V_SOAK to a number of prompts, such as 300")]
SETTLED = 0.2  # share of the prompts after which memory must not grow
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
    begin = max(1, round(SETTLED * PROMPTS))
    print(f"{PROMPTS} prompts: memory {memory[0]:.0f} to {memory[-1]:.0f} MB, {slope(memory[begin:]):.3f} MB per prompt; ", end="")
    print(f"threads {threads[begin]} to {threads[-1]}, open files {files[begin]} to {files[-1]}")
    assert digest(renderer, seed=1, filename_prefix="soak/last") == first
    assert threads[-1] <= max(threads[:begin]) + 2
    assert files[-1] <= max(files[:begin]) + 5
    assert len([path for path in server.base_directory.glob("temp/**/*") if path.is_file()]) <= len(temp) + PROMPTS  # previews of core
    if PROMPTS >= 100:
        assert slope(memory[begin:]) < MOST_SLOPE


def test_eight_clients_at_once(server):
    """Each gets its own video or its own cancel, also two that name the same run."""
    clients = [ComfyClient(server.url) for _ in range(8)]

    def work(number: int) -> str:
        client = clients[number]
        run_name = "shared run" if number in (0, 1) else ""
        prompt = quick_start(seed=number, filename_prefix="clients/x", run_name=run_name, **TWO_CLIPS)
        if number % 3 != 2:
            outputs = client.run(prompt)
            return next(
                item["filename"] for shown in outputs.values() for items in shown.values() for item in items if "filename" in str(item)
            )
        prompt_id = client.queue(prompt)
        client.interrupt(prompt_id)
        with pytest.raises((PromptInterrupted, PromptFailed)):
            client.wait(prompt_id, timeout_s=300)
        return ""

    with ThreadPoolExecutor(8) as pool:
        names = [name for name in pool.map(work, range(8)) if name]
    assert len(set(names)) == len(names) == 6


def test_two_servers_save_under_one_prefix(server, comfyui_path, base_directory):
    with ComfyServer(comfyui_path, base_directory, cpu=True, extra_args=["--disable-api-nodes"]) as second:
        clients = [ComfyClient(server.url), ComfyClient(second.url)]
        barrier = threading.Barrier(2)

        def save(client: ComfyClient) -> None:
            for number in range(3):
                barrier.wait(300)
                client.run(quick_start(seed=number, filename_prefix="two_servers/x"))

        start = time.time()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(save, clients))
    videos = [path for path in (base_directory / "output" / "two_servers").iterdir() if path.stat().st_mtime >= start]
    assert len(videos) == 6
    assert all(path.stat().st_size > 1000 and ".part" not in path.name for path in videos)

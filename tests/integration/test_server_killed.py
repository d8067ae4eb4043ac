"""Kill -9 of the whole server in the middle of a run: a new server goes on with the same prompt, and ends with the same video."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, ComfyError
from wan_s2v_pack.cli.comfyui.server import ComfyServer, prepare_base_directory

from .conftest import ROOT
from .graphs import THREE_CLIPS, find, quick_start
from .rendering import Renderer

STEPS = 2


@pytest.fixture
def start(comfyui_path, base_directory, tmp_path):
    """Starts a server of its own in a folder of its own, with the models and inputs of the session's."""
    base = prepare_base_directory(tmp_path / "comfyui", ROOT)
    for name in ("models", "input"):
        shutil.copytree(base_directory / name, base / name, dirs_exist_ok=True)
    return lambda: ComfyServer(comfyui_path, base, cpu=True, extra_args=["--disable-api-nodes"])


def kill_behind(step, server, client, prompt) -> None:
    """Queue the prompt, and kill the server when the sampler has made so many steps."""
    sampler = find(prompt, "WanS2VSampler")

    def kill(progress):
        if progress.node == sampler and progress.value >= step:
            os.kill(server.pid, signal.SIGKILL)

    with pytest.raises(ComfyError):
        client.run(prompt, kill)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_server_loses_at_most_one_clip(start, renderer):
    whole = renderer.render(quick_start(seed=500, filename_prefix="killed/whole", **THREE_CLIPS))
    prompt = quick_start(seed=500, run_name="killed", filename_prefix="killed/video", **THREE_CLIPS)
    with start() as server:
        kill_behind(2 * STEPS, server, ComfyClient(server.url), prompt)
    folder = server.output_directory / "wan_s2v_runs" / "killed"
    finished = {path.name: path.read_bytes() for path in folder.glob("clip_*.safetensors")}
    assert finished
    seen = []
    with start() as server:
        video = Renderer(server, ComfyClient(server.url)).render(prompt, seen.append)
        assert {path.name: path.read_bytes() for path in folder.glob("clip_*.safetensors") if path.name in finished} == finished
        files = {path.name for path in server.output_directory.rglob("*") if path.is_file()}
    assert min(step.value for step in seen if step.node == find(prompt, "WanS2VSampler")) >= STEPS  # step 0 of the second clip
    assert np.array_equal(video.luma, whole.luma)
    assert np.array_equal(video.sound, whole.sound)
    clips = {f"clip_{clip:05d}.safetensors" for clip in range(3)}
    assert files == {*clips, "manifest.json", "run.lock", "in_progress.mp4", "video_00001_.mp4"}

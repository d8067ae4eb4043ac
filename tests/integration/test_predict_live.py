"""`predict --live --output -`: the video on the standard output while it is made."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from .commands import Workplace, make_workplace, predict_command
from .rendering import open_video

SECONDS, FPS = 2.5, 25


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, comfyui_path, base_directory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("predict_live"), comfyui_path, base_directory / "models")


def test_the_stream_plays_and_begins_before_the_end(workplace, server, tmp_path):
    command = predict_command(
        "--server",
        server.url,
        "--live",
        "--lora",
        "tiny_live_avatar.safetensors",
        "--duration",
        str(SECONDS),
        "--steps",
        "3",
        "--output",
        "-",
    )
    errors = (tmp_path / "said.txt").open("wb")
    with (
        errors,
        subprocess.Popen(command, cwd=workplace.folder, env=workplace.environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        first = os.read(process.stdout.fileno(), 2**16)
        begun_s = time.monotonic()
        rest = process.stdout.read()
        ended_s = time.monotonic()
    said = (tmp_path / "said.txt").read_text()
    assert process.returncode == 0, said
    path = tmp_path / "stream.mp4"
    path.write_bytes(first + rest)
    video = open_video(path)
    assert (video.fps, video.num_frames) == (FPS, round(SECONDS * FPS))
    assert abs(video.sound_seconds - SECONDS) < 2 / FPS
    assert ended_s - begun_s > 0.5, "all of it came at the end"
    assert f"{len(first + rest)} bytes" in said

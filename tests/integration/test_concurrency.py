"""Many clients of one server, two servers with one output folder, and a server that is killed in the middle: nobody loses a video.

WAN_S2V_CLIENTS=8 is the full size, with the restart, of which docs/reliability.md says what came; otherwise there are four clients, and
videos of one clip. What is compared does not depend on who comes first, or on how fast anything is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, ComfyError, PromptFailed, PromptInterrupted
from wan_s2v_pack.cli.comfyui.server import ComfyServer, prepare_base_directory
from wan_s2v_pack.wan_s2v_model.runs.manifest import IN_USE, RUNS_FOLDER
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

from .conftest import ROOT
from .graphs import THREE_CLIPS, TWO_CLIPS, find, inputs_of, quick_start
from .rendering import Renderer, open_video

FULL = "WAN_S2V_CLIENTS" in os.environ
CLIENTS = int(os.environ.get("WAN_S2V_CLIENTS", "4"))
LENGTH, NUM_CLIPS = (TWO_CLIPS, 2) if FULL else ({}, 1)
ROUNDS = CLIENTS // 4  # in which each of two servers saves two videos
SEEDS = range(600, 602)
NO_END = {"steps": 1000, **THREE_CLIPS}  # of prompts that are cancelled: nobody waits for their end
NOT_USED_FPS = 20.0  # clips bring their own; equal prompts would get one video, which ComfyUI remembers
STUCK_S = 3600.0  # after which a test that waits for another thread is given up
AGAIN_S = 5.0  # an interrupt that comes in the moment in which a prompt starts is forgotten by ComfyUI

linked = pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")


def digest(path: Path) -> str:
    """Of the pictures and the sound."""
    video = open_video(path)
    return hashlib.sha256(video.luma.tobytes() + video.sound.tobytes()).hexdigest()


def render(server: ComfyServer, **changes) -> Path:
    """The video that a client of its own gets."""
    client = ComfyClient(server.url)
    return Renderer(server, client).video_path(client.run(quick_start(**changes)))


def cancel_running(server: ComfyServer, **changes) -> None:
    """Cancel a prompt by its id when it has made a step; other prompts may run before and behind it."""
    client = ComfyClient(server.url)
    Renderer(server, client).cancel(quick_start(**NO_END, **changes), lambda _step: True)


def cancel_queued(server: ComfyServer, **changes) -> None:
    """Cancel a prompt by its id as soon as it is queued, whether it waits or runs."""
    client = ComfyClient(server.url)
    prompt_id = client.queue(quick_start(**NO_END, **changes))

    def until_it_ends() -> None:
        while True:
            client.interrupt(prompt_id)
            with contextlib.suppress(TimeoutError):
                return client.wait(prompt_id, timeout_s=AGAIN_S)

    with pytest.raises(PromptInterrupted):
        until_it_ends()


def together(*tasks):
    """Do all of it at once, and return what came of each."""
    barrier = threading.Barrier(len(tasks))

    def do(task):
        barrier.wait(STUCK_S)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [job.result() for job in [pool.submit(do, task) for task in tasks]]


def files_below(server: ComfyServer, folder: str) -> set[Path]:
    return {path.resolve() for path in (server.output_directory / folder).rglob("*") if path.is_file()}


def runs_named(server: ComfyServer, name: str) -> dict[str, int]:
    """How many clips there are in each take of a run; every one is read and compared with its hash."""
    clips = {}
    for folder in (server.output_directory / RUNS_FOLDER).glob(f"{name}*"):
        store = RunStore.reading(folder)
        clips[folder.name] = len([store.read_frames(index) for index in range(store.num_finished)])
    return clips


def clip_files(server: ComfyServer, run_name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (server.output_directory / RUNS_FOLDER / run_name).glob("clip_*.safetensors")}


@pytest.fixture(scope="module")
def alone(server) -> dict[int, str]:
    """What comes of each seed where nobody else is there."""
    return {seed: digest(render(server, seed=seed, filename_prefix="alone/x", **LENGTH)) for seed in SEEDS}


@pytest.fixture(scope="module")
def second(server, comfyui_path, tmp_path_factory):
    """Another server, whose output folder is that of the session's server."""
    base = prepare_base_directory(tmp_path_factory.mktemp("second") / "comfyui", ROOT)
    for name in ("models", "input"):
        shutil.copytree(server.base_directory / name, base / name, dirs_exist_ok=True)
    (base / "output").rmdir()
    (base / "output").symlink_to(server.output_directory, target_is_directory=True)
    with ComfyServer(comfyui_path, base, cpu=True, extra_args=["--disable-api-nodes"]) as other:
        yield other


def test_each_client_gets_its_own_video_or_its_own_cancel(server, alone):
    """Two of them name the same run; every fourth one is cancelled."""
    same, other = SEEDS
    roles = (
        partial(render, server, seed=same, filename_prefix="clients/x", **LENGTH),
        partial(render, server, seed=same, filename_prefix="clients/x", run_name="clients", **LENGTH),
        partial(render, server, seed=other, filename_prefix="clients/x", run_name="clients", **LENGTH),
        partial(cancel_running, server, seed=other, filename_prefix="clients/running", run_name="cancelled"),
        partial(cancel_queued, server, seed=other, filename_prefix="clients/queued"),
    )
    tasks = [partial(roles[number % len(roles)], fps=NOT_USED_FPS + number) for number in range(CLIENTS)]
    ended = together(*tasks, roles[-1])
    expected = [None if role >= 3 else alone[same if role < 2 else other] for role in (n % len(roles) for n in range(CLIENTS))]
    assert [path and digest(path) for path in ended] == [*expected, None]
    videos = [path.resolve() for path in ended if path]
    assert len(set(videos)) == len(videos)
    assert files_below(server, "clients") == set(videos)
    assert runs_named(server, "clients") == {"clients": NUM_CLIPS, "clients_2": NUM_CLIPS}
    assert ComfyClient(server.url).queue_state() == ([], [])


@linked
def test_two_servers_take_no_number_twice(server, second, alone):
    for number in range(ROUNDS):
        seeds = SEEDS[0], SEEDS[1], SEEDS[1], SEEDS[0]
        servers = server, server, second, second
        given = {"filename_prefix": "two/x", "fps": NOT_USED_FPS + number, **LENGTH}
        tasks = [partial(render, at, seed=seed, **given) for at, seed in zip(servers, seeds, strict=True)]
        assert [digest(path) for path in together(*tasks)] == [alone[seed] for seed in seeds]
    assert {path.name for path in files_below(server, "two")} == {f"x_{number:05}_.mp4" for number in range(1, 4 * ROUNDS + 1)}


@linked
def test_two_servers_with_one_run_name(server, second, alone):
    """One of them makes it; the other one uses what is there, or says that it has to wait."""
    seed = SEEDS[0]

    def make(at: ComfyServer) -> Path | str:
        try:
            return render(at, seed=seed, filename_prefix="one_run/x", run_name="one run", **LENGTH)
        except PromptFailed as error:
            return str(error)

    for ended in together(partial(make, server), partial(make, second)):
        assert IN_USE in ended if isinstance(ended, str) else digest(ended) == alone[seed]
    assert [digest(make(at)) for at in (server, second)] == [alone[seed]] * 2
    assert runs_named(server, "one run") == {"one run": NUM_CLIPS}


@linked
@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="rare: set WAN_S2V_CLIENTS=8; test_server_killed.py kills one server in every run")
def test_a_server_that_is_killed_and_started_again(server, second, alone):
    """Who waits for it queues again, the other server goes on beside it, and the run that was cut off keeps its clips."""
    again = threading.Event()
    run = {"seed": SEEDS[0], "run_name": "restarted", "filename_prefix": "restarted/run", **LENGTH}

    def kill(step) -> None:
        if step.node == find(prompt, "WanS2VSampler") and step.value > inputs_of(prompt, "WanS2VSampler")["steps"]:
            os.kill(second.pid, signal.SIGKILL)

    def render_or_again(**changes) -> Path:
        try:
            return render(second, **changes)
        except ComfyError:
            assert again.wait(STUCK_S)
            return render(second, **changes)

    prompt = quick_start(**run)
    tasks = [(render_or_again, SEEDS[0]), (render_or_again, SEEDS[1]), (partial(render, server), SEEDS[1])]
    with ThreadPoolExecutor(len(tasks)) as pool:
        jobs = [pool.submit(task, seed=seed, filename_prefix="restarted/x", **LENGTH) for task, seed in tasks]
        try:
            with contextlib.suppress(ComfyError):
                ComfyClient(second.url).run(prompt, kill)
            os.kill(second.pid, signal.SIGKILL)  # where its prompt has ended before that
            second.stop()
            finished = clip_files(server, "restarted")
            second.start()
        finally:
            again.set()
        assert [digest(job.result()) for job in jobs] == [alone[seed] for _, seed in tasks]
    assert digest(render(second, **run)) == alone[SEEDS[0]]
    assert finished.items() <= clip_files(server, "restarted").items()
    assert runs_named(server, "restarted") == {"restarted": 2}
    assert {digest(path) for path in files_below(server, "restarted") if ".part" not in path.name} == set(alone.values())

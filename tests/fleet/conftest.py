"""A fleet on this machine: real brokers, workers with a ComfyUI each, and the smallest models."""

import json

import pytest
from wan_s2v_pack.tests.crash.tiny_run import make_models
from wan_s2v_pack.tests.golden.conftest import bridge

from .harness import ROOT, Fleet

__all__ = ["bridge"]
FILES = {
    "model": "wan_s2v_tiny.safetensors",
    "text-encoder": "umt5_tiny.safetensors",
    "vae": "wan_2.1_vae_tiny.safetensors",
    "audio-encoder": "wav2vec2-tiny/model.safetensors",
}
SMALL = {"size": "64x64", "frames": 8, "steps": 2, "guidance": 1, "duration": 1.3}  # three clips

STAND_IN = """
import os, runpy, sys
sys.path.pop(0)  # this folder is no ComfyUI
runpy.run_path({conftest!r})  # the pack under its alias
from aiohttp import web
from wan_s2v_pack.tests import fake_comfyui
fake_comfyui.DONE["status"]["status_str"] = "success"
server = fake_comfyui.Server()
server.record_after, server.upload_limit = int(os.environ.get("LOOKS", "0")), 2**30
application = server.application()
application.add_routes([web.get("/system_stats", lambda _: _answer())])
async def _answer():
    return web.json_response({{"system": {{}}, "devices": []}})
web.run_app(application, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]))
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/fleet" in item.path.as_posix():
            item.add_marker(pytest.mark.comfy)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def models(bridge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture
def lines(tmp_path):
    """Write some jobs with a name each; return the file."""

    def lines(count, place="out", **options):
        samples = {"image": str(ROOT / "samples" / "sample_portrait.png"), "audio": str(ROOT / "samples" / "sample_speech.wav")}
        jobs = [
            {
                **samples,
                **SMALL,
                **FILES,
                "seed": number,
                "run_name": f"job {number}",
                **options,
                "output": str(tmp_path / place / f"{number}.mp4"),
            }
            for number in range(count)
        ]
        path = tmp_path / f"{place}.jsonl"
        path.write_text("\n".join(map(json.dumps, jobs)), encoding="utf-8")
        return path

    return lines


@pytest.fixture
def fleet(models, tmp_path):
    """Makes fleets: `fleet(broker)`; all end with the test."""
    fleets = []

    def make(broker, place="fleet"):
        fleets.append(Fleet(broker, models, tmp_path / place))
        return fleets[-1]

    yield make
    for made in fleets:
        made.stop()


@pytest.fixture
def stand_in(tmp_path):
    """The folder of a ComfyUI that has every video already, or after as many looks at it as LOOKS in the environment says."""
    folder = tmp_path / "comfyui"
    (folder / "models").mkdir(parents=True)
    (folder / "folder_paths.py").touch()
    (folder / "main.py").write_text(STAND_IN.format(conftest=str(ROOT / "tests" / "conftest.py")))
    return folder

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

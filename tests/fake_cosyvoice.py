"""A Python environment of its own with a stand-in for CosyVoice, and the speech worker in it."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from wan_s2v_pack.cli.comfyui.server import free_port
from wan_s2v_pack.wan_s2v_model.media.speech_worker import Address

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tts_worker" / "cosyvoice_worker.py"
SAMPLE_RATE = 24000
SENTENCE_S = 0.25  # of each sentence at speed 1
PROMPTS = {"old": "prompt_speech_16k", "new": "prompt_wav"}  # how CosyVoice's versions name the reference

ENGINE = """
import json, sys, time
from pathlib import Path

import matcha  # of third_party
import torch


class CosyVoice2:
    sample_rate = 24000

    def __init__(self, model_dir, load_jit=True, load_trt=True, fp16=True):
        self.folder = Path(model_dir)
        assert (load_jit, load_trt, fp16) == (False, False, False)
        while (self.folder / "loading").exists():
            time.sleep(0.02)

    def inference_zero_shot(self, tts_text, prompt_text, PROMPT, zero_shot_spk_id="", stream=True, speed=1.0):
        return self._speak("zero_shot", tts_text, prompt_text, PROMPT, stream, speed)

    def inference_cross_lingual(self, tts_text, PROMPT, zero_shot_spk_id="", stream=True, speed=1.0):
        return self._speak("cross_lingual", tts_text, None, PROMPT, stream, speed)

    def _speak(self, function, text, prompt_text, prompt, stream, speed):
        assert "unspeakable" not in text, "cannot speak this"
        for sentence in filter(str.strip, text.split(".")):
            self._note(function=function, sentence=sentence.strip(), prompt_text=prompt_text, stream=stream, prefix=sys.prefix,
                       prompt=Path(prompt).name if isinstance(prompt, str) else list(prompt.shape))
            if "slow" in sentence:
                time.sleep(0.3)
            yield {"tts_speech": torch.rand(1, round(SENTENCE_S * self.sample_rate / speed))}

    def _note(self, **call):
        with (self.folder / "calls.jsonl").open("a") as file:
            file.write(json.dumps(call) + "\\n")
"""
FILE_UTILS = """
import torch, wave

def load_wav(path, rate):
    with wave.open(path) as file:
        return torch.zeros(1, file.getnframes() * rate // file.getframerate())
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with torch, a checkout of the stand-in and its model folder."""

    python: Path
    cosyvoice: Path
    model: Path

    def calls(self) -> list[dict[str, Any]]:
        """What the engine was asked, one entry per sentence."""
        path = self.model / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget_calls(self) -> None:
        (self.model / "calls.jsonl").unlink(missing_ok=True)


def make_environment(folder: Path, version: str) -> Environment:
    """Create everything under a folder; `version` is a key of PROMPTS."""
    environment = folder / "environment"
    venv.create(environment, symlinks=os.name != "nt")
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    query = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    cosyvoice = folder / "CosyVoice"
    files = {
        "cosyvoice/cli/cosyvoice.py": ENGINE.replace("PROMPT", PROMPTS[version]).replace("SENTENCE_S", str(SENTENCE_S)),
        "cosyvoice/utils/file_utils.py": FILE_UTILS,
        "third_party/Matcha-TTS/matcha.py": "",
    }
    for name, text in files.items():
        (cosyvoice / name).parent.mkdir(parents=True, exist_ok=True)
        (cosyvoice / name).write_text(textwrap.dedent(text))
    model = folder / "CosyVoice2-0.5B"
    model.mkdir()
    (model / "cosyvoice2.yaml").write_text("")
    return Environment(python, cosyvoice, model)


@contextmanager
def running_worker(environment: Environment) -> Iterator[Address]:
    """The worker as a process of that environment; its address as soon as it listens."""
    port = free_port()
    options = ["--cosyvoice", environment.cosyvoice, "--model", environment.model, "--port", str(port)]
    command = [environment.python, "-u", WORKER, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith(f"listening on 127.0.0.1:{port}"), line
            yield Address("127.0.0.1", port)
        finally:
            process.terminate()

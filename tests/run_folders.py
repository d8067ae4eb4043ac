"""Small run folders, made by the run store itself, and damage to them."""

from __future__ import annotations

import json
import os
import time

import torch
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

SETTINGS = {
    "model": "s2v.safetensors 32600000000 1763812800000000000 ({'weight_dtype': 'bf16', 'precision': 'official'},)",
    "loras": "e3b0c44298fc1c14",
    "prompt": "aa11",
    "pose": "",
    "width": 64,
    "height": 48,
    "frames_per_clip": 20,
    "clips": 4,
    "sync_mode": "aligned",
    "seed": 42,
    "steps": 40,
    "cfg": 4.5,
    "solver": "unipc",
    "invented_later": True,
}
DAY_S = 86_400


def clip(index):
    generator = torch.Generator().manual_seed(index)
    return {
        "latents": torch.randn(16, 5, 6, 8, generator=generator),
        "motion_latents": torch.randn(1, 16, 19, 6, 8, generator=generator),
        "frames": torch.randint(0, 256, (17 if index == 0 else 20, 48, 64, 3), dtype=torch.uint8, generator=generator),
    }


def make_run(place, name, num_clips=3, **settings):
    with RunStore.open(place / name, {**SETTINGS, **settings}) as store:
        for index in range(store.num_finished, num_clips):
            store.write_clip(index, **clip(index))
    return place / name


def clip_path(folder, index):
    return folder / f"clip_{index:05d}.safetensors"


def without_hashes(folder):
    """As runs of early versions are."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    return folder


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def age(folder, days):
    then = time.time() - days * DAY_S
    for path in folder.iterdir():
        os.utime(path, (then, then))


def names(folder):
    return sorted(path.name for path in folder.iterdir())

"""What a running ComfyUI computes on, as it tells itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEVICE = re.compile(r"(?:\w+:\d+ )?(.+?)(?: : \w+)?")  # as ComfyUI has it: cuda:0 NVIDIA GeForce RTX 3090 : cudaMallocAsync
HOSTS = ("cpu", "mps")  # types of devices that compute in main memory


@dataclass(frozen=True)
class Machine:
    """The first device of a server.

    Attributes:
        device: its name, as the driver has it.
        device_bytes, ram_bytes: all of its memory, whoever uses it now.
        is_host: computes in main memory.
    """

    device: str
    device_bytes: float
    ram_bytes: float
    is_host: bool = False


def machine_of(system_stats: Mapping[str, Any]) -> Machine:
    """The machine that a server's answer to /system_stats describes."""
    device = system_stats["devices"][0]
    found, memory = DEVICE.fullmatch(device["name"]), system_stats["system"]["ram_total"]
    return Machine(found[1] if found else device["name"], device["vram_total"], memory, device["type"] in HOSTS)

"""Runs in a process of its own, because broken packages can end it: imports them and prints what it finds, one JSON object a line.

Usage: probe.py torch
       probe.py comfyui COMFYUI_FOLDER PACK_FOLDER [flag of ComfyUI ...]
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

IMPORT_ERRORS = (ImportError, OSError, RuntimeError, AttributeError)  # what packages of different builds raise
TRIO = ("torch", "torchvision", "torchaudio")
ATTENTION_PACKAGES = ("flash_attn", "flash_attn_interface", "fa3_fwd_interface", "sageattention", "sageattn3", "xformers.ops")
COPIED_BYTES = 2**28
MARK = "wan_s2v_probe "


def main() -> None:
    what, *arguments = sys.argv[1:]
    if what == "torch":
        probe_torch()
    else:
        probe_comfyui(*arguments)


def tell(section: str, **values: Any) -> None:
    print(MARK + json.dumps({section: values}), flush=True)


def try_import(name: str) -> tuple[Any, str]:
    """The module and "", or None and the reason in one line."""
    try:
        return importlib.import_module(name), ""
    except IMPORT_ERRORS as error:
        return None, (str(error) or type(error).__name__).splitlines()[0]


def probe_torch() -> None:
    """Versions, GPUs, attention kernels."""
    modules, errors = {}, {}
    for name in TRIO:
        modules[name], reason = try_import(name)
        if reason:
            errors[name] = reason
    versions = {name: getattr(module, "__version__", "") for name, module in modules.items()}
    tell("versions", errors=errors, **versions)
    if torch := modules["torch"]:
        tell("devices", accelerator=accelerator(torch), gpus=gpus(torch), kernels=kernels(torch))
        tell("attention", **attention_packages(), triton=getattr(try_import("triton")[0], "__version__", ""), has_kitchen=has_kitchen())
        tell("links", links=links(torch))


def accelerator(torch: Any) -> str:
    for name in ("cuda", "xpu", "mps"):
        backend = getattr(torch.backends, name, None) if name == "mps" else getattr(torch, name, None)
        if backend is not None and backend.is_available():
            return name
    return ""


def gpus(torch: Any) -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    is_nvidia = torch.version.cuda is not None
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": item.name, "memory_bytes": item.total_memory, "capability": [item.major, item.minor] if is_nvidia else None}
        for item in found
    ]


def links(torch: Any) -> list[dict[str, Any]]:
    """How each GPU reaches the next one: whether directly, whether what is copied is there, and bytes per second."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [link(torch, source, (source + 1) % count) for source in range(count if count > 1 else 0)]


def link(torch: Any, source: int, target: int) -> dict[str, Any]:
    sent = torch.arange(COPIED_BYTES // 4, dtype=torch.int32, device=f"cuda:{source}")
    got = torch.zeros_like(sent, device=f"cuda:{target}")

    def copy() -> float:
        for gpu in (source, target):
            torch.cuda.synchronize(gpu)
        start = time.perf_counter()
        got.copy_(sent)
        for gpu in (source, target):
            torch.cuda.synchronize(gpu)
        return time.perf_counter() - start

    copy()
    seconds = copy()
    is_direct = torch.cuda.can_device_access_peer(source, target)
    return {"is_direct": is_direct, "arrives": bool(torch.equal(got.cpu(), sent.cpu())), "bytes_per_s": COPIED_BYTES / seconds}


def kernels(torch: Any) -> list[str]:
    """Attention kernels of PyTorch that are switched on."""
    names = {"cuDNN": "cudnn_sdp_enabled", "flash": "flash_sdp_enabled", "memory-efficient": "mem_efficient_sdp_enabled"}
    return [name for name, switch in names.items() if hasattr(torch.backends.cuda, switch) and getattr(torch.backends.cuda, switch)()]


def attention_packages() -> dict[str, Any]:
    packages: list[str] = []
    broken: dict[str, str] = {}
    for name in ATTENTION_PACKAGES:
        top = name.split(".")[0]
        if importlib.util.find_spec(top) is not None:
            reason = try_import(name)[1]
            packages += [] if reason else [top]
            broken |= {top: reason} if reason else {}
    return {"packages": packages, "broken": broken}


def has_kitchen() -> bool:
    """Whether ComfyUI's kernels, as they are installed, have attention in int8 for the first GPU."""
    kitchen, _ = try_import("comfy_kitchen")
    return bool(getattr(kitchen, "int8_attention_is_available", lambda: False)())


class Warnings(logging.Handler):
    """Keeps what ComfyUI warns of while it starts."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def about(self, *words: str) -> str:
        """The first sentences of a warning that holds one of these words, in lower case; "" if there is none."""
        found = (text for text in self.texts if any(word in text.lower() for word in words))
        return ". ".join(next(found, "").split(". ")[:2]).rstrip(".")


def probe_comfyui(comfyui: str, pack: str, *flags: str) -> None:
    """What ComfyUI decides when it starts with these flags, and whether it can load the pack."""
    os.chdir(comfyui)
    sys.path[:] = [comfyui, *(path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent)]
    sys.argv = ["main.py", "--disable-all-custom-nodes", *flags]
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    importlib.import_module("main")  # all of ComfyUI's start but the server
    management = importlib.import_module("comfy.model_management")
    attention = importlib.import_module("comfy.ldm.modules.attention")
    tell(
        "runtime",
        dynamic=bool(importlib.import_module("comfy.memory_management").aimdo_enabled),
        why=warnings.about("dynamicvram", "aimdo"),
        device=management.get_torch_device().type,
        device_name=management.get_torch_device_name(management.get_torch_device()),
        vram_state=management.vram_state.name,
        attention=attention.optimized_attention.__name__,
        pinned_bytes=int(management.MAX_PINNED_MEMORY),
    )
    spec = importlib.util.spec_from_file_location("wan_s2v_pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wan_s2v_pack"] = module
    spec.loader.exec_module(module)
    tell("pack", nodes=asyncio.run(count_nodes(module)))


async def count_nodes(pack: Any) -> int:
    extension = await pack.comfy_entrypoint()
    return len(await extension.get_node_list())


if __name__ == "__main__":
    main()

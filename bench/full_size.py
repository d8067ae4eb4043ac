"""The 14B model with random weights: checkpoint files, inputs of a later clip, one model call. Shared by the benchmarks."""

import json
import math
import os
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SIZES = {"832x480": (60, 104), "1024x704": (88, 128)}  # latents: height, width
ALL_SIZES = {**SIZES, "64x64": (8, 8)}  # with one for a trial on the CPU
NUM_LATENT_FRAMES = 20
LAYOUTS = ("bf16", "fp8_scaled")
FP8_MAX = 448
OPTIONS = {"weight_dtype": "default", "precision": "official", "attention": "auto"}
READ_BYTES = 16 * 2**20


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def config(tiny: bool = False):
    """The 14B model, or a tiny one for a trial on the CPU."""
    from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B, WanS2VConfig

    return WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2)) if tiny else S2V_14B


def checkpoint(folder: Path, layout: str = "bf16", tiny: bool = False) -> Path:
    """A file with random weights, names and shapes of the 14B checkpoint; nothing is zero. Written unless it is there.

    Args:
        layout: `bf16` (32.6 GB), or `fp8_scaled` (17 GB), whose matrices of the blocks are float8 with a scale each.
    """
    import torch
    from safetensors.torch import save_file
    from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes

    model, path = config(tiny), folder / f"random_s2v_{'tiny' if tiny else '14b'}_{layout}.safetensors"
    if path.exists():
        return path
    start = time.perf_counter()
    generator = torch.Generator(device()).manual_seed(0)
    tensors = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)} if layout == "fp8_scaled" else {}
    for name, shape in expected_shapes(model).items():
        values = torch.randn(shape, generator=generator, device=device()) * 0.02
        if "norm" in name and name.endswith("weight"):
            values += 1
        if layout == "fp8_scaled" and len(shape) == 2 and name.startswith(("blocks.", "audio_injector.")):
            scale = values.abs().max() / FP8_MAX
            tensors[name] = (values / scale).to(torch.float8_e4m3fn).cpu()
            tensors[name.removesuffix("weight") + "scale_weight"] = scale.cpu()
        else:
            tensors[name] = values.bfloat16().cpu()
    transformer = {"text_dim": model.text_dim, "audio_dim": model.audio_dim, "audio_inject_layers": model.audio_inject_layers}
    save_file(tensors, path, metadata={"config": json.dumps({"transformer": transformer})} if tiny else None)
    parameters = sum(math.prod(shape) for shape in expected_shapes(model).values())
    seconds = time.perf_counter() - start
    print(f"{path.name}: {parameters:,} parameters, {path.stat().st_size / 1e9:.2f} GB, written in {seconds:.0f} s", flush=True)
    return path


def forget_file(path: Path) -> None:
    """Drop a file from the page cache, so that the next read comes from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(path: Path) -> float:
    """Seconds of reading a whole file, front to back."""
    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def make_inputs(size: str, tiny: bool = False) -> dict:
    """Inputs of `apply_model` in a later clip, as the sampler makes them."""
    import torch

    model, where = config(tiny), device()
    height, width = ALL_SIZES[size]
    generator = torch.Generator(where).manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, device=where)

    return {
        "x": random(1, 16, NUM_LATENT_FRAMES, height, width),
        "t": torch.tensor([0.75], device=where),
        "c_crossattn": random(1, 512, model.text_dim),
        "audio_embed": random(1, 25, model.audio_dim, 4 * NUM_LATENT_FRAMES),
        "reference_latent": random(1, 16, 1, height, width),
        "reference_motion": random(1, 16, 19, height, width),
        "control_video": torch.zeros(1, 16, NUM_LATENT_FRAMES, height, width, device=where),  # no pose
    }


def forward(model, inputs: dict, memory, more: Mapping[str, Any] = MappingProxyType({})):
    """One apply_model call as the guider makes it; seconds on the GPU and the result.

    Args:
        memory: ClipMemory; keeps what is constant over a clip. more: transformer_options.
    """
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import CONSTANTS_KEY

    call = {"wrappers": model.wrappers, "uuids": [0], "cond_or_uncond": [0]}
    options = {**model.model_options["transformer_options"], CONSTANTS_KEY: memory, **call, **more}
    if device() == "cpu":
        start = time.perf_counter()
        out = model.model.apply_model(**inputs, transformer_options=options)
        return time.perf_counter() - start, out
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    out = model.model.apply_model(**inputs, transformer_options=options)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, out


def use(model, memory_required: int = 8 * 2**30) -> None:
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], memory_required=memory_required)
    model.pre_run()


def unload_everything() -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


class PeakMemory:
    """Watches the memory in use on the device, whoever allocated it: torch's own counters do not see dynamic VRAM.

    Attributes:
        bytes: the most that was in use on a device (None: the current one) while the `with` block ran, without a ballast of
            `ignored_bytes`.
    """

    INTERVAL_S = 0.005

    def __init__(self, ignored_bytes: int = 0, device=None):
        self.ignored_bytes = ignored_bytes
        self.device = device
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        import torch

        while not self._stop.wait(self.INTERVAL_S) and torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info(self.device)
            self.bytes = max(self.bytes, total - free - self.ignored_bytes)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def median_range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):7.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})"

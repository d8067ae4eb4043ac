"""A node for the ComfyUI that `doctor --compare` starts: calls our model and ComfyUI's own Wan S2V model, both on the same file.

The two differ on purpose (docs/differences.md), so the inputs are such that both compute the same function:

- Whole-numbered timestep, batch of one, 512 rows of text, a pose in both: nothing is rounded, split or padded in two ways.
- No history in the first case, and sides of any size. With history a video of 64 x 64 pixels: there the positions of its far tokens
  are whole numbers in both, and the tokens at timestep 0 begin at the same place.
- Ours hears sound for four frames together, ComfyUI's three frames less: it gets the sound three frames earlier, and the first four
  frames of ours are alike, since what is in front of them is filled up in two ways.
- No input takes away that ComfyUI's far history stands at -19, -18, -17, -16 instead of -19, -14, -9, -4: its positions are corrected.
- Both compute in float32 from the weights as they are stored, layer by layer. Layers that would round their inputs to float8 do not.
"""

from __future__ import annotations

import gc
import importlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

OPTIONS = {"weight_dtype": "default", "precision": "official", "attention": "auto"}
LATENT_FRAMES = 6
CASES = {"first clip": (16, 24), "later clip": (8, 8)}  # height and width in latents; the later clip has a history and a pose
HEARD_LATER = 3  # frames of sound
ALIKE = 4  # first frames of sound
FAR_START, FAR_LATENTS, FAR_TOKENS = -19, 16, 4
SIGMA = 0.5  # timestep 500
LATENT, TEXT_ROWS, MOTION_LATENTS = 16, 512, 19
MEMORY_BYTES = 2 * 2**30  # for what is computed
SHARES_A_NODE = "WanS2VModelLoader"


class Case(NamedTuple):
    """Inputs of one model call: noisy latents and ComfyUI's names of the conditions."""

    latents: Tensor
    conditions: dict[str, Tensor]


class Outputs(NamedTuple):
    """What one model makes of every case: velocities [1, 16, F, h, w] by name of the case, on the CPU."""

    exact: dict[str, Tensor]  # in float32
    rounded: dict[str, Tensor]  # in the dtype in which it samples
    dtype: torch.dtype
    seconds: float


class WanS2VCompare:
    """The node: a path in, the measurements as JSON out."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "Wan S2V"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"path": ("STRING", {})}}

    def run(self, path: str) -> dict[str, Any]:
        nodes: Any = importlib.import_module("nodes")
        pack = nodes.NODE_CLASS_MAPPINGS[SHARES_A_NODE].__module__.rpartition(".nodes.")[0]
        return {"ui": {"measured": [json.dumps(compare(importlib.import_module(f"{pack}.wan_s2v_model.comfy_bridge"), path))]}}


NODE_CLASS_MAPPINGS = {"WanS2VCompare": WanS2VCompare}


def compare(bridge: Any, path: str) -> dict[str, Any]:
    """Call both models, one after the other so that only one is in memory, and measure how far they are apart.

    Args:
        bridge: our `comfy_bridge`.
    Returns:
        By case: `exact`, the relative difference in float32; `ours` and `comfyui`, by how much rounding to `dtype` moves each, or null
        where something is not finite; `late`, the difference if ComfyUI's hears the sound three frames late. And the seconds of each.
    """
    ours = bridge.load_diffusion_model(path, OPTIONS)
    config = ours.model.diffusion_model.config
    cases = {name: make_case(config, *size, later=name == "later clip") for name, size in CASES.items()}
    mine = run_cases(ours, cases)
    del ours
    forget_models()
    native = load_native(path)
    with reference_positions(native.model.diffusion_model):
        theirs = run_cases(native, {name: heard_earlier(case) for name, case in cases.items()}, mine.dtype)
        late = run_cases(native, cases, exact_only=True)
    del native
    forget_models()
    measured = {
        name: {
            "exact": difference(theirs.exact[name], mine.exact[name]),
            "ours": difference(mine.rounded[name], mine.exact[name]),
            "comfyui": difference(theirs.rounded[name], theirs.exact[name]),
            "late": difference(late.exact[name], mine.exact[name]),
        }
        for name in cases
    }
    seconds = {"ours": mine.seconds, "comfyui": theirs.seconds + late.seconds}
    return {"cases": measured, "dtype": str(mine.dtype).removeprefix("torch."), "seconds": seconds}


def difference(output: Tensor, truth: Tensor) -> float | None:
    """Root mean square of the difference over that of the truth; None where one is not finite or the truth is nothing."""
    ratio = float((output.double() - truth.double()).norm() / truth.double().norm())
    return ratio if ratio < float("inf") else None


# --- inputs


def make_case(config: Any, height: int, width: int, *, later: bool) -> Case:
    """Seeded inputs of a first or a later clip, in the form that our model takes."""
    generator = torch.Generator().manual_seed(int(later))

    def randn(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    sound = randn(config.num_audio_layers, config.audio_dim, 4 * LATENT_FRAMES)
    sound[..., :ALIKE] = sound[..., :1]
    conditions = {
        "c_crossattn": randn(TEXT_ROWS, config.text_dim),
        "reference_latent": randn(LATENT, 1, height, width),
        "audio_embed": sound,
        "control_video": randn(LATENT, LATENT_FRAMES, height, width) * later,
    }
    if later:
        conditions["reference_motion"] = randn(LATENT, MOTION_LATENTS, height, width)
    return Case(randn(LATENT, LATENT_FRAMES, height, width), conditions)


def heard_earlier(case: Case) -> Case:
    """The same case for ComfyUI's model: each latent frame hears the sound up to its last frame, as ours does."""
    sound = case.conditions["audio_embed"]
    end = sound[..., -1:].expand(*sound.shape[:-1], HEARD_LATER)  # is not heard
    return Case(case.latents, {**case.conditions, "audio_embed": torch.cat([sound[..., HEARD_LATER:], end], dim=-1)})


@contextmanager
def reference_positions(native: Any) -> Iterator[None]:
    """Let the far history of ComfyUI's model stand where the reference has it."""
    encode = native.rope_encode

    def encode_spread(t: int, h: int, w: int, t_start: int = 0, **options: Any) -> Tensor:
        if t_start == FAR_START:
            return encode(FAR_LATENTS, h, w, t_start=t_start, **{**options, "steps_t": FAR_TOKENS})
        return encode(t, h, w, t_start=t_start, **options)

    native.rope_encode = encode_spread
    try:
        yield
    finally:
        del native.rope_encode


# --- models


def load_native(path: str) -> Any:
    """ComfyUI's own model, with the rule of our loader for the dtype, which takes bfloat16 before float16."""
    pack_rule = [torch.bfloat16, torch.float16, torch.float32]
    known = comfy.supported_models.WAN22_S2V.supported_inference_dtypes
    comfy.supported_models.WAN22_S2V.supported_inference_dtypes = pack_rule
    try:
        return _load_shards(path) if path.endswith(".json") else comfy.sd.load_diffusion_model(path)
    finally:
        comfy.supported_models.WAN22_S2V.supported_inference_dtypes = known


def _load_shards(index: str) -> Any:
    """The official folder, which ComfyUI's loader does not read by itself."""
    folder, _, name = index.replace("\\", "/").rpartition("/")
    with open(f"{folder}/{name}", encoding="utf-8") as stream:
        shards = sorted(set(json.load(stream)["weight_map"].values()))
    with open(f"{folder}/config.json", encoding="utf-8") as stream:
        metadata = {"config": json.dumps({"transformer": json.load(stream)})}
    state_dict: dict[str, Tensor] = {}
    for shard in shards:
        state_dict |= comfy.utils.load_torch_file(f"{folder}/{shard}", safe_load=True)
    return comfy.sd.load_diffusion_model_state_dict(state_dict, metadata=metadata)


def run_cases(model: Any, cases: dict[str, Case], dtype: torch.dtype | None = None, *, exact_only: bool = False) -> Outputs:
    """Call a MODEL on every case, in float32 and in `dtype`, without one in that in which it samples."""
    start_s = time.monotonic()
    sampled = model.model.get_dtype_inference()
    dtype = dtype or (torch.bfloat16 if sampled == torch.float32 else sampled)
    comfy.model_management.load_models_gpu([model], memory_required=MEMORY_BYTES)
    take_any_dtype(model.model.diffusion_model)
    with without_tf32():
        exact = {name: call(model, case, torch.float32) for name, case in cases.items()}
    rounded = {} if exact_only else {name: call(model, case, dtype) for name, case in cases.items()}
    return Outputs(exact, rounded, dtype, time.monotonic() - start_s)


def take_any_dtype(transformer: Any) -> None:
    """Let ComfyUI's layers bring their weights into the dtype of their input, and round nothing else."""
    layer: Any
    for layer in transformer.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
        if hasattr(layer, "_full_precision_mm"):
            layer._full_precision_mm = True


def call(model: Any, case: Case, dtype: torch.dtype) -> Tensor:
    """The velocity of one case, as ComfyUI's samplers call the model, computed in `dtype`."""
    device = model.load_device
    model.model.manual_cast_dtype = dtype
    model.pre_run()
    try:
        x, sigma = case.latents.to(device), torch.tensor([SIGMA], device=device)
        conditions = {name: tensor.to(device) for name, tensor in case.conditions.items()}
        with torch.inference_mode():
            denoised = model.model.apply_model(x, sigma, transformer_options={}, **conditions)
        return ((x - denoised) / SIGMA).float().cpu()
    finally:
        model.cleanup()


@contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 products in float32: some GPUs would compute convolutions with 10 bits."""
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    former = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, value in zip(switches, former, strict=True):
            switch.allow_tf32 = value


def forget_models() -> None:
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()

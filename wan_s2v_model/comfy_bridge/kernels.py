"""Which kernels compute attention and linear layers: what was chosen, what works here, and whether that is exact.

A kernel of our choice proves at first use on each device that it computes attention. What ComfyUI or another node has chosen runs as it is,
and is named.
"""

import functools
import importlib.metadata
import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..kernels.float8 import FLOAT8, Float8Heads, Float8Rows, quantise_heads
from ..kernels.linears import EXACT, Float8Linears, Linears, float8_works, quantise_rows
from ..kernels.self_test import passes
from ..transformer.attention_check import FEW_KEYS, largest_difference, rounding_error
from ..transformer.blocks import FLOAT8_BEYOND, OVERRIDE, AttentionFunction, sdpa
from ..transformer.shards import Heads
from .patches import origin

logger = logging.getLogger("wan_s2v")
ATTENTIONS = ("auto", "comfyui", "sage")
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
HOPPER = 9  # major compute capability
TOLERANCE = 2e-2  # of the self-test: bfloat16 results near 1 against float32
TOLERANCE_8_BITS, TOLERANCE_4_BITS = 0.1, 0.25  # relative, of each head
KERNEL_ERRORS = (ImportError, RuntimeError, TypeError, ValueError, OSError, AttributeError, AssertionError)
SPEEDS = ("exact", "fp8 linears", "fp8 linears and attention")


class Kernel(NamedTuple):
    """An attention kernel of our choice, and whether it is there for a device."""

    run: AttentionFunction
    is_there: Callable[[torch.device], bool]


class Chosen(NamedTuple):
    """The attention kernel that runs.

    Attributes:
        error: relative, as the self-test found it on this device; 0 for what is exact, None where nobody knows.
    """

    name: str
    run: AttentionFunction
    error: float | None = 0.0


@comfy_attention.wrap_attn
def _cudnn(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    with sdpa_kernel(CUDNN_FIRST, set_priority=True):
        return sdpa(q, k, v, heads)


@comfy_attention.wrap_attn
def _flash3(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if q.dtype != torch.bfloat16:  # the wheel has no kernel for others
        return _cudnn(q, k, v, heads)
    from fa3_fwd_interface import flash_attn_func

    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))  # [B, S, D] -> [B, S, H, d]
    return flash_attn_func(q, k, v).flatten(2)


@comfy_attention.wrap_attn
def _flash3_float8(q: Heads, k: Heads, v: Heads, heads: int, **_: Any) -> Tensor:
    if isinstance(v, Tensor) and v.shape[1] <= FEW_KEYS:
        return _flash3(q, k, v, heads)
    from fa3_fwd_interface import flash_attn_func

    q, k = (t if isinstance(t, Float8Heads) else quantise_heads(t, heads, smooth) for t, smooth in ((q, False), (k, True)))
    values = v if isinstance(v, Float8Heads) else quantise_heads(v, heads)
    scales = {"q_descale": q.scale, "k_descale": k.scale, "v_descale": values.scale}
    found = flash_attn_func(q.values, k.values, values.values, **scales).flatten(2)
    return found.to(v.dtype) if isinstance(v, Tensor) else found


setattr(_flash3_float8, FLOAT8_BEYOND, FEW_KEYS)


@comfy_attention.wrap_attn
def _sage(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if k.shape[1] <= FEW_KEYS:
        return _cudnn(q, k, v, heads)
    from sageattention import sageattn

    heads16 = (_in_16_bits(t).unflatten(-1, (heads, -1)) for t in (q, k, v))  # [B, S, D] -> [B, S, H, d]
    return sageattn(*heads16, tensor_layout="NHD").flatten(2).to(q.dtype)


def _in_16_bits(x: Tensor) -> Tensor:
    """SageAttention takes nothing else."""
    return x.bfloat16() if x.dtype == torch.float32 else x


@comfy_attention.wrap_attn
def _kitchen(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if k.shape[1] <= FEW_KEYS:
        return _cudnn(q, k, v, heads)
    from comfy_kitchen import int8_attention

    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # [B, S, D] -> [B, H, S, d]
    return int8_attention(q, k, v).transpose(1, 2).flatten(2)


@comfy_attention.wrap_attn
def _sage3(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if k.shape[1] <= FEW_KEYS:
        return _cudnn(q, k, v, heads)
    from sageattn3 import sageattn3_blackwell

    heads16 = (_in_16_bits(t).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous() for t in (q, k, v))  # [B, S, D] -> [B, H, S, d]
    return sageattn3_blackwell(*heads16, is_causal=False).transpose(1, 2).flatten(2).to(q.dtype)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _has_kitchen(device: torch.device) -> bool:
    """Whether ComfyUI's own kernels, as they are installed, have attention in int8 for this device."""
    try:
        from comfy_kitchen import int8_attention_is_available
    except ImportError:
        return False
    return int8_attention_is_available(device)


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER


FLASH3, SAGE, KITCHEN, SAGE3 = "FlashAttention 3", "SageAttention", "comfy-kitchen in int8", "SageAttention 3 in 4 bits"
SAGE_KERNEL = Kernel(_sage, lambda device: _installed("sageattention"))
KERNELS: dict[str, dict[str, Kernel]] = {  # best first
    "auto": {
        f"{FLASH3} (fa3_fwd)": Kernel(_flash3, lambda device: _is_hopper(device) and _installed("fa3_fwd_interface")),
        "cuDNN": Kernel(_cudnn, lambda device: torch.cuda.get_device_capability(device)[0] >= HOPPER),
    },
    "fp8": {
        f"{FLASH3} in fp8 (fa3_fwd)": Kernel(_flash3_float8, lambda device: _is_hopper(device) and _installed("fa3_fwd_interface")),
        SAGE: SAGE_KERNEL,
    },
    "sage": {
        SAGE: SAGE_KERNEL,
        KITCHEN: Kernel(_kitchen, _has_kitchen),
        SAGE3: Kernel(_sage3, lambda device: _installed("sageattn3")),
    },
}
SAGES = {kernel.run for kernel in KERNELS["sage"].values()}
OF_COMFYUI = {  # by the names of its functions; which round their inputs is said in ROUNDING
    "attention_pytorch": "PyTorch",
    "attention_flash": "flash_attn",
    "attention_xformers": "xformers",
    "attention_split": "split",
    "attention_sub_quad": "sub-quadratic",
    "attention_basic": "basic",
    "attention_sage": f"{SAGE} in 8 bits",
    "attention3_sage": SAGE3,
    "attention_comfy_kitchen_int8": KITCHEN,
}
ROUNDING = ("attention_sage", "attention3_sage", "attention_comfy_kitchen_int8")


def pick_attention(name: str, device: torch.device, float8: bool = False) -> AttentionFunction:
    """The kernel for a setting of the model loader; see `choose_attention`."""
    return choose_attention(name, device, float8).run


def choose_attention(name: str, device: torch.device, float8: bool = False) -> Chosen:
    """The kernel for a setting of the model loader, and what it is.

    `auto` is the fastest exact kernel on NVIDIA Hopper and newer, unless ComfyUI was started with a kernel of the user's choice; everywhere
    else, and with `comfyui`, it is ComfyUI's. `sage` is one in 8 bits, or as `auto` where none works. With `float8` one that rounds its
    inputs goes before what `auto` takes. Overrides of other nodes apply to all.
    """
    function = comfy_attention.optimized_attention
    if name == "sage":
        found = _best("sage", device) if device.type == "cuda" else None
        return found or choose_attention("auto", device)
    is_free = name == "auto" and function is comfy_attention.attention_pytorch
    if is_free and device.type == "cuda" and comfy.model_management.is_nvidia():
        found = (_best("fp8", device) if float8 else None) or _best("auto", device)
        return found or _of_comfyui(function)
    return _of_comfyui(function)


def _of_comfyui(function: Callable[..., Tensor]) -> Chosen:
    """ComfyUI's attention, as it was started, or what another node has put in its place."""
    known = OF_COMFYUI.get(function.__name__) if getattr(function, "__module__", "") == comfy_attention.__name__ else None
    if known is None:
        return _of_another_node(function)
    return Chosen(f"{known}, as ComfyUI was started", function, None if function.__name__ in ROUNDING else 0.0)


def _of_another_node(function: Any) -> Chosen:
    return Chosen(f"of another node ({origin(function)}), exact or not", function, None)


@functools.cache
def _best(kind: str, device: torch.device) -> Chosen | None:
    """The first of the kernels of a kind that is there and passes its self-test on this device."""
    for name, kernel in KERNELS[kind].items():
        if not kernel.is_there(device):
            continue
        error = _error_in_self_test(name, kernel.run, device, is_exact=kind == "auto")
        if error is not None:
            chosen = Chosen(_with_version(name), kernel.run, error)
            logger.info("attention: %s", _with_error(chosen))
            return chosen
    return None


def _with_error(chosen: Chosen) -> str:
    return f"{chosen.name} (error {chosen.error:.1%} in its self-test)" if chosen.error else chosen.name


def _with_version(name: str) -> str:
    """SageAttention 1 and 2 share their name and differ in speed."""
    try:
        return f"{name} {importlib.metadata.version('sageattention')} in 8 bits" if name == SAGE else name
    except importlib.metadata.PackageNotFoundError:
        return f"{name} in 8 bits"


def _error_in_self_test(name: str, kernel: AttentionFunction, device: torch.device, *, is_exact: bool) -> float | None:
    """0 for an exact kernel that gives what plain attention gives, the relative error of one that rounds, None for one that fails."""
    measured: list[float] = []
    tolerance = TOLERANCE if is_exact else TOLERANCE_4_BITS if name == SAGE3 else TOLERANCE_8_BITS

    def measure() -> float:
        dtype = torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float16
        measured.append((largest_difference if is_exact else rounding_error)(kernel, device, dtype))
        return measured[0]

    fails, differs = (f"attention: {name} {problem} and is not used" for problem in ("does not run here (%s)", "is wrong by %.1e here"))
    if not passes(measure, tolerance, fails=fails, differs=differs, errors=KERNEL_ERRORS):
        return None
    return 0.0 if is_exact else measured[0]


def require_attention(name: str) -> None:
    """Say at the loader what a choice lacks.

    Raises:
        ValueError: `sage` has no kernel on the device of the models.
    """
    device = comfy.model_management.get_torch_device()
    if name != "sage" or (device.type == "cuda" and _best("sage", device) is not None):
        return
    there = [kernel for kernel, (_, is_there) in KERNELS["sage"].items() if device.type == "cuda" and is_there(device)]
    if there:
        reason = f"{', '.join(there)} is installed, but fails its self-test on this GPU; the log says how"
    else:
        reason = "SageAttention is not installed, and ComfyUI's comfy-kitchen has no attention in int8 for this device"
    advice = "Choose attention: auto, or install SageAttention (on Windows with triton-windows); python -m cli doctor says how."
    raise ValueError(f"attention: sage cannot be used: {reason}. {advice}")


# Linear layers

FP8_CAPABILITY = (8, 9)  # GeForce 40, L40, H100 and newer


def pick_linears(speed: str, device: torch.device, dtype: torch.dtype) -> Linears:
    """How the blocks compute their products on this device: as the setting says, or as their layers do where float8 does not work."""
    return Float8Linears(dtype, comfy_float8_weights) if speed != SPEEDS[0] and _has_float8(device) else EXACT


def wants_float8_attention(speed: str) -> bool:
    return speed == SPEEDS[2]


@functools.cache
def _has_float8(device: torch.device) -> bool:
    if has_float8_cores(device):
        return float8_works(device)
    logger.warning("speed: fp8 needs an NVIDIA GPU of compute capability 8.9 or higher (GeForce 40, H100); it has no effect here")
    return False


def has_float8_cores(device: torch.device) -> bool:
    """Whether the GPU multiplies float8."""
    is_nvidia = device.type == "cuda" and comfy.model_management.is_nvidia()
    return is_nvidia and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


@contextmanager
def comfy_float8_weights(layer: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Float8Rows, Tensor | None]]:
    """Weight and bias of a ComfyUI layer, LoRA applied, wherever they are stored; a float8 weight of the file stays as it is."""
    types = {"dtype": dtype, "bias_dtype": dtype, "compute_dtype": dtype}
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, device=device, offloadable=True, want_requant=True, **types)
    try:
        yield _as_rows(weight), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _as_rows(weight: Tensor) -> Float8Rows:
    if not isinstance(weight, comfy.ops.QuantizedTensor):
        return quantise_rows(weight)
    values, scale = weight._qdata, weight._params.scale
    if values.dtype != FLOAT8 or scale.numel() != 1:
        return quantise_rows(weight.dequantize())
    return Float8Rows(values, scale.to(values.device, torch.float32).reshape(1, 1).repeat(values.shape[0], 1))


def _format_of_input(layer: nn.Module) -> str:
    """To what a layer of ComfyUI rounds its input by itself, because its file is packed so or ComfyUI was started so; "" for nothing."""
    packed = getattr(layer, "quant_format", None)
    if packed is not None:
        rounds = comfy.quant_ops.QUANT_ALGOS.get(packed, {}).get("quantize_input", True)
        is_whole = getattr(layer, "_full_precision_mm", False) or getattr(layer, "comfy_force_cast_weights", False)
        return packed if rounds and not is_whole else ""
    is_fast = isinstance(layer, comfy.ops.fp8_ops.Linear) and layer.weight.dtype == FLOAT8
    return "fp8_matrix_mult" if is_fast else ""


# In words


class Computation(NamedTuple):
    """How a MODEL is computed on its device, in words."""

    text: str
    is_exact: bool
    without_effect: tuple[str, ...] = ()  # of the loader's choices, the end of the text


def describe(forward: Any, device: torch.device, dtype: torch.dtype, overrides: dict[str, Any], rounded: str = "") -> Computation:
    """What runs, and what of the loader's `speed` and `attention` has no effect here.

    Args:
        forward: a `Forward` of `model.py`. dtype: in which the layers compute. overrides: the transformer_options of the MODEL.
        rounded: what else is kept in few bits.
    """
    chosen = choose_attention(forward.attention, device, wants_float8_attention(forward.speed))
    if OVERRIDE in overrides:
        chosen = _of_another_node(overrides[OVERRIDE])
    linears = pick_linears(forward.speed, device, dtype)
    layers, layers_are_exact = _linears_in_words(linears, forward.transformer, dtype)
    is_exact = layers_are_exact and chosen.error == 0 and not rounded
    text = f"computes {'exactly' if is_exact else 'not exactly'}: linear layers in {layers}; attention {_with_error(chosen)}"
    without_effect = tuple(_without_effect(forward, device, linears, chosen))
    return Computation(". ".join(["; ".join(filter(None, (text, rounded))), *without_effect]), is_exact, without_effect)


def _linears_in_words(linears: Linears, transformer: nn.Module, dtype: torch.dtype) -> tuple[str, bool]:
    """In what they compute, and whether that is exact."""
    if linears.rounding:
        return linears.rounding, False
    name = str(dtype).removeprefix("torch.")
    formats = Counter(filter(None, map(_format_of_input, transformer.modules())))
    if formats:
        return f"{name}, but {', '.join(f'{count} in {format}' for format, count in formats.items())} by ComfyUI", False
    if dtype == torch.float16 and torch.backends.cuda.matmul.allow_fp16_accumulation:
        return f"{name} with sums in float16 (ComfyUI's --fast)", False
    return name, True


def _without_effect(forward: Any, device: torch.device, linears: Linears, chosen: Chosen) -> Iterator[str]:
    """What of the loader's choices does nothing here, and why."""
    if forward.speed != SPEEDS[0] and not linears.rounding:
        reason = (
            "its self-test failed, see the log" if has_float8_cores(device) else "this device has no fp8 (GeForce 40, H100 and newer have)"
        )
        yield f"speed: {forward.speed} has no effect on linear layers: {reason}"
    if wants_float8_attention(forward.speed) and chosen.error == 0:
        yield "No attention in fp8 runs here: it needs attention: auto, and fa3-fwd (H100) or SageAttention"

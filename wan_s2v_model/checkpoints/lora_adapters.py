"""Adapters of LoRA files: whether the parts of one fit together and the tensor that they change.

ComfyUI's adapters compute the changes. What would stop them while they patch, pass unnoticed or come out wrong is found here first.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

Parts = Mapping[str, Tensor]

SHARED = ("alpha", "dora_scale")  # parts of adapters of every kind
TUCKER = ("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2")
MAGNITUDES = "dora_scale"
RESCALE = "rescale"

HALF = "an adapter without its other half"
RANKS = "an adapter whose parts do not fit together"
EMPTY = "an adapter of rank 0"
SEVERAL_ALPHAS = "an adapter whose alpha is not one number"
WRONG_SCALES = "an adapter whose scales are of the wrong shape"
RESCALED = "an OFT with rescale, which ComfyUI applies without it"
NO_CONVOLUTION = "in the Tucker form, which ComfyUI knows for convolutions over pictures only"
WRONG_SHAPE = "of the wrong shape"


class Misfit(Exception):
    """Why ComfyUI cannot apply a change: the reason, and what of it differs from change to change."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def adapter_kind(parts: Iterable[str]) -> str:
    """What kind of adapter these parts are of; "" where none of them tells."""
    return next((kind for kind, (prefixes, _) in KINDS.items() if any(part.startswith(prefixes) for part in parts)), "")


def reads(kind: str, part: str) -> bool:
    """Whether an adapter of this kind can have this part."""
    return part in SHARED or (kind in KINDS and part.startswith(KINDS[kind][0]))


def require_fit(kind: str, parts: Parts, target: Sequence[int]) -> None:
    """Raise Misfit unless ComfyUI can apply an adapter to a tensor of the shape `target`."""
    if not kind:
        raise Misfit(HALF)
    if not parts.keys().isdisjoint(TUCKER):
        raise Misfit(NO_CONVOLUTION)
    KINDS[kind][1](parts, target)
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise Misfit(SEVERAL_ALPHAS, f"(alpha with {parts['alpha'].numel()} numbers)")
    if MAGNITUDES in parts:
        by_column = [(1, *_by_row(target[1:]))] if len(target) > 1 else []  # in early files
        _require_scales(MAGNITUDES, with_axes(parts[MAGNITUDES], target), _by_row(target), *by_column)


def require_shape(found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise Misfit with both shapes unless they are the same."""
    if tuple(found) != tuple(expected):
        raise Misfit(WRONG_SHAPE, f"{tuple(found)} instead of {tuple(expected)}")


def with_axes(magnitudes: Tensor, target: Sequence[int]) -> Tensor:
    """PEFT stores the magnitudes of a DoRA as a list; ComfyUI divides by norms that keep their axes."""
    return magnitudes.reshape(_by_row((-1, *target[1:]))) if magnitudes.ndim == 1 else magnitudes


def _require_low_rank(parts: Parts, target: Sequence[int]) -> None:
    require_shape(_product(_flat(parts), "lora_up.weight", "lora_down.weight"), _matrix_of(target))


def _require_loha(parts: Parts, target: Sequence[int]) -> None:
    for factor in ("hada_w1", "hada_w2"):
        require_shape(_product(parts, f"{factor}_a", f"{factor}_b"), _matrix_of(target))


def _require_lokr(parts: Parts, target: Sequence[int]) -> None:
    (rows, columns), (more_rows, more_columns) = (
        _matrix(parts, name) if name in parts else _product(parts, f"{name}_a", f"{name}_b") for name in ("lokr_w1", "lokr_w2")
    )
    require_shape((rows * more_rows, columns * more_columns), _matrix_of(target))


def _require_glora(parts: Parts, target: Sequence[int]) -> None:
    """Both orders of LyCORIS: W a1 a2 + b1 b2, and earlier W a2 a1 + b2 b1; ComfyUI tells them apart by the shapes."""
    flat = _flat(parts)
    found = [_matrix(flat, f"{name}.weight") for name in ("a1", "a2", "b1", "b2")]
    rows, columns = _matrix_of(target)
    (early_rank, rank), inputs = found[0], math.prod(target[1:2])
    orders = (
        [(inputs, rank), (rank, inputs), (rows, rank), (rank, columns)],
        [(early_rank, columns), (columns, early_rank), (early_rank, columns), (rows, early_rank)],
    )
    if found not in orders or len(target) < 2:
        raise Misfit(RANKS, f"({', '.join(map(str, found))} for {(rows, columns)})")
    _require_rank(min(map(min, found)))


def _require_oft(parts: Parts, target: Sequence[int]) -> None:
    """Square blocks along the rows; with one more axis in front, the stages of a butterfly (BOFT), each over wider strides."""
    if "oft_blocks" not in parts:
        raise Misfit(HALF, "(no oft_blocks)")
    rows, shape = target[0], tuple(parts["oft_blocks"].shape)
    blocks, size = shape[-3:-1] if len(shape) in (3, 4) else (0, 0)
    if blocks * size != rows or shape[-1] != size:
        raise Misfit(WRONG_SHAPE, f"{shape} instead of n square blocks of {rows} rows together")
    if len(shape) == 4:
        _require_butterfly(parts, shape, target)
    elif RESCALE in parts:
        raise Misfit(RESCALED)


def _require_butterfly(parts: Parts, shape: Sequence[int], target: Sequence[int]) -> None:
    stages, _, size, _ = shape
    if "alpha" not in parts:
        raise Misfit(HALF, "(no alpha)")
    if size % 2 or not stages or target[0] % (size * 2 ** (stages - 1)):
        raise Misfit(WRONG_SHAPE, f"{tuple(shape)} instead of stages that divide {target[0]} rows")
    if RESCALE in parts:
        _require_scales(RESCALE, parts[RESCALE], _by_row(target))


def _require_scales(name: str, scales: Tensor, *allowed: Sequence[int]) -> None:
    if tuple(scales.shape) not in allowed:
        raise Misfit(WRONG_SCALES, f"({name} {tuple(scales.shape)} instead of {allowed[0]})")


def _by_row(target: Sequence[int]) -> tuple[int, ...]:
    return (target[0], *(1 for _ in target[1:]))


def _flat(parts: Parts) -> dict[str, Tensor]:
    """As matrices where they are convolutions."""
    return {name: tensor.flatten(1) if tensor.ndim > 2 else tensor for name, tensor in parts.items()}


def _matrix_of(target: Sequence[int]) -> tuple[int, int]:
    return target[0], math.prod(target[1:])


def _product(parts: Parts, left: str, right: str) -> tuple[int, int]:
    """Rows and columns of the product of two parts."""
    (rows, rank), (inner, columns) = _matrix(parts, left), _matrix(parts, right)
    if rank != inner:
        raise Misfit(RANKS, f"({left} {(rows, rank)}, {right} {(inner, columns)})")
    _require_rank(rank)
    return rows, columns


def _matrix(parts: Parts, name: str) -> tuple[int, int]:
    if name not in parts:
        raise Misfit(HALF, f"(no {name})")
    if parts[name].ndim != 2:
        raise Misfit(RANKS, f"({name} {tuple(parts[name].shape)} is no matrix)")
    rows, columns = parts[name].shape
    return rows, columns


def _require_rank(rank: int) -> None:
    if not rank:
        raise Misfit(EMPTY)


Check = Callable[[Parts, Sequence[int]], None]

KINDS: dict[str, tuple[tuple[str, ...], Check]] = {  # what the names of the parts begin with, and the check
    "low rank": (("lora_",), _require_low_rank),
    "LoHa": (("hada_",), _require_loha),
    "LoKr": (("lokr_",), _require_lokr),
    "OFT": (("oft_", RESCALE), _require_oft),
    "GLoRA": (("a1.", "a2.", "b1.", "b2."), _require_glora),
}

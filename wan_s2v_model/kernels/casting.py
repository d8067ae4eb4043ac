"""Weights in the dtype and on the device of the input, wherever they are stored."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CastWeights = Callable[[nn.Module, Tensor], AbstractContextManager[tuple[Tensor, Tensor | None]]]


@contextmanager
def cast_weights(layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weight and bias of a plain torch layer in the dtype of x. ComfyUI's layers bring their own version of this."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    yield weight.to(x), None if bias is None else bias.to(x)


def is_changed(layer: nn.Module) -> bool:
    """Whether a layer does more than its weights say: an adapter has taken over its `forward`, or its file scales the input first."""
    forward = vars(layer).get("forward")  # ComfyUI leaves the layer's own there when it takes another one off
    is_own = forward is None or getattr(forward, "__func__", None) is type(layer).forward
    return not is_own or getattr(layer, "pre_quant_scale", None) is not None


def run_changed(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a changed layer as it is, in the dtype that it takes; the result is in that of x."""
    return layer(x.to(_input_dtype(layer, x.dtype))).to(x.dtype)


def _input_dtype(layer: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """That of the weights. ComfyUI's layers take any where it has told them to, and where their weights are quantised."""
    weight = cast_type(Tensor, layer.weight)
    takes_any = getattr(layer, "comfy_cast_weights", False) or not weight.is_floating_point() or weight.itemsize == 1
    return dtype if takes_any else weight.dtype


def run_as_input(layer: nn.Module, x: Tensor, cast: CastWeights = cast_weights) -> Tensor:
    """Run a layer in the dtype of its input, whatever the dtype in which its weights are stored. One that was changed runs as it is."""
    if is_changed(layer):
        return run_changed(layer, x)
    with cast(layer, x) as (weight, bias):
        if isinstance(layer, nn.Conv1d):
            return layer._conv_forward(x, weight, bias)
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        return F.linear(x, weight, bias)  # ComfyUI's quantised linear layers are not nn.Linear

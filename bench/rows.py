"""The ways to run the transformer that the benches compare, one optimisation at a time."""

from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as changed


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        native: ComfyUI's own forward. attention: of our loader, or `cudnn`, also for the native model.
        precision: of our loader. without: optimisations that are switched off, keys of `stand_ins` in `switched`.
        pack: the checkout of this pack that computes, by its package name.
        speakers: how two of them share the picture, halves, soft or everywhere; empty for one sound.
    """

    native: bool = False
    attention: str = "auto"
    precision: str = "official"
    speed: str = "exact"
    without: tuple[str, ...] = ()
    pack: str = "wan_s2v_pack"
    speakers: str = ""


ROWS = {
    "native": Row(native=True),
    "native, cuDNN first": Row(native=True, attention="cudnn"),
    "ours": Row(),
    "ours, cuDNN attention": Row(attention="cudnn"),
    "ours, ComfyUI's attention": Row(attention="comfyui"),
    "ours, no fused kernels": Row(without=("kernels",)),
    "ours, no fused GELU": Row(without=("gelu",)),
    "ours, bf16 residual": Row(precision="fast"),
    "ours, fp8 linears": Row(speed="fp8 linears"),
    "ours, fp8 linears and attention": Row(speed="fp8 linears and attention"),
    "ours, two speakers": Row(speakers="halves"),
    "ours, two speakers, soft edges": Row(speakers="soft"),
    "ours, two speakers, both everywhere": Row(speakers="everywhere"),
    "ours, all of fp8, bf16 residual": Row(speed="fp8 linears and attention", precision="fast"),
}
PARENT = "wan_s2v_parent"
PARENT_ROWS = {f"parent of {name}": changed(row, pack=PARENT) for name, row in ROWS.items() if not row.native}


def switched(row: Row) -> ExitStack:
    """A context in which the row's switches are set."""
    import sys

    import comfy.ops
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.comfy_bridge import kernels, model

    stand_ins = {
        "kernels": ("kernels_work", lambda device: False),
        "gelu": ("linear_gelu", lambda layer, x, cast: F.gelu(layer(x), approximate="tanh")),
    }
    stack = ExitStack()
    pack = [module for name, module in sys.modules.items() if name.startswith("wan_s2v_pack.wan_s2v_model")]
    for name, stand_in in (stand_ins[switch] for switch in row.without):
        for module in pack:
            if hasattr(module, name):
                replace(stack, module, name, stand_in)
    if row.attention == "cudnn" and row.native:
        replace(stack, comfy.ops, "SDPA_BACKEND_PRIORITY", kernels.CUDNN_FIRST)
    elif row.attention == "cudnn":
        replace(stack, model, "pick_attention", lambda *_: kernels._cudnn)
    return stack


def told(inputs: dict, row: Row) -> tuple[dict, dict]:
    """The inputs of a call and transformer_options, with a second speaker where the row has one."""
    if not row.speakers:
        return inputs, {}
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import REGIONS_KEY
    from wan_s2v_pack.wan_s2v_model.transformer.speakers import Regions

    frames, height, width = inputs["x"].shape[2:]
    columns = torch.arange(width // 2) / max(1, width // 2 - 1)
    left = {"halves": (columns < 0.5).float(), "soft": (5.5 - 10 * columns).clamp(0, 1), "everywhere": torch.full_like(columns, 0.5)}
    weights = left[row.speakers].expand(frames, height // 2, -1)
    sound = inputs["audio_embed"]
    both = torch.stack([sound, sound.roll(4, dims=-1)], dim=1)
    return {**inputs, "audio_embed": both}, {REGIONS_KEY: Regions(torch.stack([weights, 1 - weights]))}


def replace(stack: ExitStack, module, name: str, stand_in) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, stand_in)

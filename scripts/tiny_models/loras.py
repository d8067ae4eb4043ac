"""Tiny LoRA files in the dialects that people have, and the same changes merged into a checkpoint.

Usage: loras.py CHECKPOINT OUT_DIR    (writes one file per dialect, named after it, for a tiny S2V checkpoint)
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Shapes = Mapping[str, Sequence[int]]

RANK = 4
LIVE_AVATAR_RANK, LIVE_AVATAR_ALPHA = 8, 4.0  # in a model of width 256; at full size 128 and 64
ALPHA = 2.0
NOTED = ("diffusers_metadata", "peft_config", "live_avatar")  # dialects whose alpha is no tensor; that of the last one is known
ATTENTION = [f"{attention}.{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"]
BLOCK = [*ATTENTION, "ffn.0", "ffn.2"]
EMBEDDERS = ["text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2", "time_projection.1", "head.head"]
NORMS = ["self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k", "norm3"]
DIFFUSERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}


@dataclass(frozen=True)
class Change:
    """What a LoRA does to one tensor of the checkpoint.

    Attributes:
        parts: in the names of ComfyUI's adapters, without the module: lora_up.weight and lora_down.weight, lokr_w1 and lokr_w2,
            the four of a LoHa, or diff.
    """

    tensor: str
    parts: dict[str, Tensor]
    alpha: float | None = None

    @property
    def module(self) -> str:
        return self.tensor.removesuffix(".weight").removesuffix(".bias")

    def merge(self, weight: Tensor, strength: float) -> Tensor:
        """The changed weight, on the device and in the type of `weight`, computed in ComfyUI's order: adapters in float32."""
        if "diff" in self.parts:
            return weight + strength * self.parts["diff"].to(weight)
        parts = {name: tensor.to(weight.device, torch.float32) for name, tensor in self.parts.items()}
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        if "lora_up.weight" in parts:
            product = torch.mm(parts["lora_up.weight"].flatten(1), parts["lora_down.weight"].flatten(1))
        elif "hada_w1_a" in parts:
            product = torch.mm(parts["hada_w1_a"], parts["hada_w1_b"]) * torch.mm(parts["hada_w2_a"], parts["hada_w2_b"])
        else:
            product = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
        return weight + ((strength * scale) * product.reshape(weight.shape)).to(weight)

    @property
    def rank(self) -> int:
        """Of a low rank change or a LoHa."""
        return next(self.parts[name].shape[0] for name in ("lora_down.weight", "hada_w1_b") if name in self.parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(arguments.checkpoint).items()}
    for dialect in DIALECTS:
        write_lora(dialect, shapes, arguments.out_dir / f"{dialect}.safetensors")


def write_lora(dialect: str, shapes: Shapes, path: Path) -> list[Change]:
    """Write a LoRA in this dialect for a checkpoint with these shapes; return what it changes.

    In some dialects the alpha is no tensor: it stands in the metadata, or in adapter_config.json beside the file.
    """
    changes, name_of = DIALECTS[dialect]
    made = changes(shapes)
    tensors = {}
    for change in made:
        parts = {part: tensor.contiguous() for part, tensor in change.parts.items()}
        if change.alpha is not None and dialect not in NOTED:
            parts["alpha"] = torch.tensor(change.alpha)
        tensors |= {name_of(change, part): tensor for part, tensor in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    noted = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}, "peft_type": "LORA"}
    pipeline = {f"transformer.{name}": value for name, value in noted.items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(pipeline)} if dialect == "diffusers_metadata" else None)
    if dialect == "peft_config":
        path.with_name("adapter_config.json").write_text(json.dumps(noted), encoding="utf-8")
    return made


def merge(tensors: Mapping[str, Tensor], changes: Iterable[Change], strength: float) -> dict[str, Tensor]:
    """A checkpoint with the changes of a LoRA in its weights."""
    merged = dict(tensors)
    for change in changes:
        merged[change.tensor] = change.merge(merged[change.tensor], strength)
    return merged


# --- what is changed


def blocks(shapes: Shapes, parts: Iterable[str]) -> list[str]:
    count = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    return [f"blocks.{index}.{part}" for index in range(count) for part in parts]


def injectors(shapes: Shapes) -> list[str]:
    count = sum(name.startswith("audio_injector.injector.") and name.endswith(".q.weight") for name in shapes)
    return [f"audio_injector.injector.{index}.{part}" for index in range(count) for part in "qkvo"]


def low_rank(shapes: Shapes, modules: Iterable[str], rank: int = RANK, alpha: float | None = None) -> list[Change]:
    changes = []
    for module in modules:
        rows, *columns = shapes[f"{module}.weight"]
        up = random(f"{module}.up", (rows, rank), 0.1)
        down = random(f"{module}.down", (rank, *columns), 1 / math.sqrt(math.prod(columns)))
        changes.append(Change(f"{module}.weight", {"lora_up.weight": up, "lora_down.weight": down}, alpha))
    return changes


def differences(shapes: Shapes, names: Iterable[str]) -> list[Change]:
    sizes = {name: 0.1 if len(shapes[name]) == 1 else 0.2 / math.sqrt(math.prod(shapes[name][1:])) for name in names}
    return [Change(name, {"diff": random(name, shapes[name], max(size, 0.01))}) for name, size in sizes.items()]


def loha(shapes: Shapes, modules: Iterable[str]) -> list[Change]:
    changes = []
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        sizes = {"hada_w1_a": (rows, RANK), "hada_w1_b": (RANK, columns), "hada_w2_a": (rows, RANK), "hada_w2_b": (RANK, columns)}
        parts = {name: random(f"{module}.{name}", shape, 0.3) for name, shape in sizes.items()}
        changes.append(Change(f"{module}.weight", parts, ALPHA))
    return changes


def lokr(shapes: Shapes, modules: Iterable[str]) -> list[Change]:
    changes = []
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        parts = {"lokr_w1": random(f"{module}.w1", (4, 4), 0.5), "lokr_w2": random(f"{module}.w2", (rows // 4, columns // 4), 0.02)}
        changes.append(Change(f"{module}.weight", parts))
    return changes


def everything(shapes: Shapes) -> list[Change]:
    """As lightx2v's distilled LoRAs: low rank on the linear layers, differences of all biases and norms; modulation and S2V's parts too."""
    modules = [*blocks(shapes, BLOCK), *EMBEDDERS[:-1]]
    names = [f"{module}.bias" for module in modules]
    names += [f"{norm}.weight" for norm in blocks(shapes, NORMS)] + [f"{norm}.bias" for norm in blocks(shapes, ["norm3"])]
    names += ["patch_embedding.weight", "patch_embedding.bias", "head.head.weight", "head.head.bias"]
    names += [*blocks(shapes, ["modulation"]), "head.modulation", "casual_audio_encoder.weights"]
    names += ["casual_audio_encoder.encoder.padding_tokens", "trainable_cond_mask.weight"]
    return low_rank(shapes, [*modules, *injectors(shapes)]) + differences(shapes, names)


def of_blocks(shapes: Shapes) -> list[Change]:
    return low_rank(shapes, [*blocks(shapes, BLOCK), *injectors(shapes)], alpha=ALPHA)


def of_wan(shapes: Shapes) -> list[Change]:
    return low_rank(shapes, [*blocks(shapes, BLOCK), *EMBEDDERS])


def random(name: str, shape: Sequence[int], size: float) -> Tensor:
    """Seeded by the name, exact in bfloat16."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return (size * values).bfloat16().float()


# --- what the tensors are called


def plain(prefix: str, down: str = "lora_down.weight", up: str = "lora_up.weight") -> Callable[[Change, str], str]:
    """Dotted names of the checkpoint."""
    names = {"lora_down.weight": down, "lora_up.weight": up}

    def name_of(change: Change, part: str) -> str:
        part = "diff_b" if part == "diff" and change.tensor.endswith(".bias") else names.get(part, part)
        return f"{prefix}{change.module}.{part}"

    return name_of


def underscored(prefix: str) -> Callable[[Change, str], str]:
    return lambda change, part: f"{prefix}{change.module.replace('.', '_')}.{part}"


def diffusers(module: str) -> str:
    """What the diffusers library calls a module."""
    stem, _, part = module.rpartition(".")
    if stem.startswith("audio_injector.injector."):
        return f"{stem}.{DIFFUSERS[f'self_attn.{part}'].removeprefix('attn1.')}"
    if not module.startswith("blocks."):
        return DIFFUSERS[module]
    _, index, part = module.split(".", 2)
    return f"blocks.{index}.{DIFFUSERS[part]}"


def with_diff_m(change: Change, part: str) -> str:
    """As lightx2v writes it itself: the modulation of a module is a part of the module."""
    name = plain("diffusion_model.")(change, part)
    return name.replace(".modulation.diff", ".diff_m")


DIALECTS: dict[str, tuple[Callable[[Shapes], list[Change]], Callable[[Change, str], str]]] = {
    "kohya": (of_blocks, underscored("lora_unet_")),  # musubi-tuner too
    "videox_fun": (of_blocks, underscored("lora_unet__")),
    "comfyui": (of_blocks, plain("diffusion_model.", "lora_A.weight", "lora_B.weight")),  # AI Toolkit, diffusion-pipe
    "peft": (of_wan, plain("base_model.model.", "lora_A.default.weight", "lora_B.default.weight")),
    "diffusers": (
        lambda shapes: of_wan(shapes) + low_rank(shapes, injectors(shapes)),  # the latter as SimpleTuner
        lambda change, part: f"transformer.{diffusers(change.module)}.{part.replace('_down', '_A').replace('_up', '_B')}",
    ),
    "diffusers_metadata": (
        of_blocks,
        lambda change, part: f"transformer.{diffusers(change.module)}.{part.replace('_down', '_A').replace('_up', '_B')}",
    ),
    "peft_config": (of_blocks, plain("base_model.model.", "lora_A.weight", "lora_B.weight")),
    "lightx2v": (everything, plain("diffusion_model.")),
    "lightx2v_m": (everything, with_diff_m),
    "live_avatar": (
        lambda shapes: low_rank(shapes, [*blocks(shapes, BLOCK), *injectors(shapes)], LIVE_AVATAR_RANK, LIVE_AVATAR_ALPHA),
        plain("", "lora_A.default.weight", "lora_B.default.weight"),
    ),
    "lokr": (
        lambda shapes: lokr(shapes, blocks(shapes, BLOCK)),
        lambda change, part: f"lycoris_{diffusers(change.module).replace('.', '_')}.{part}",
    ),
    "loha": (lambda shapes: loha(shapes, blocks(shapes, BLOCK)), plain("diffusion_model.")),
}


if __name__ == "__main__":
    main()

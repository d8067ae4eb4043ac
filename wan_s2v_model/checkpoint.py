"""What a Wan S2V checkpoint must hold: tensor names, shapes, configuration. Strict, with errors that say what to do."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import S2V_14B, WanS2VConfig
from .constants import HEAD_DIM

Shapes = Mapping[str, Sequence[int]]

KEY_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")
INDEX_SUFFIX = ".safetensors.index.json"
QUANTISATION_SUFFIXES = (".weight_scale", ".input_scale", ".comfy_quant", ".scale_weight", ".scale_input", ".weight_scale_2")
S2V_KEYS = ("casual_audio_encoder.encoder.final_linear.weight", "frame_packer.proj.weight", "trainable_cond_mask.weight")
DIMENSION_KEYS = (
    "patch_embedding.weight",
    "cond_encoder.weight",
    "blocks.0.ffn.0.weight",
    "text_embedding.0.weight",
    "casual_audio_encoder.weights",
    "casual_audio_encoder.encoder.conv1_local.conv.weight",
)

# The first entry whose key is present names the file.
OTHER_MODELS = (
    ("vace_patch_embedding.weight", "a Wan VACE model"),
    ("face_adapter.fuser_blocks.0.k_norm.weight", "a Wan2.2-Animate model"),
    ("audio_proj.audio_proj_glob_1.layer.bias", "a HuMo model"),
    ("img_emb.proj.0.bias", "a Wan image-to-video model"),
    ("head.modulation", "a Wan text-to-video or image-to-video model without the S2V audio layers"),
    ("decoder.middle.0.residual.0.gamma", "a Wan VAE; pick it in the VAE loader"),
    ("shared.weight", "a T5 text encoder; pick it in the text encoder loader"),
    ("token_embedding.weight", "the official umT5 text encoder; pick it in the text encoder loader"),
    ("feature_extractor.conv_layers.0.conv.weight", "a wav2vec2 audio encoder; pick it in the audio encoder loader"),
    ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", "a wav2vec2 audio encoder; pick it in the audio encoder loader"),
)


class CheckpointError(ValueError):
    """A file that cannot be used, with the reason and what to pick instead."""


def key_prefix(names: Sequence[str]) -> str:
    """The prefix under which the S2V tensors of a file are stored, "" when there is none."""
    present = set(names)
    return next((prefix for prefix in KEY_PREFIXES if prefix + S2V_KEYS[0] in present), "")


def require_s2v(names: Sequence[str], file_name: str) -> None:
    """Raise CheckpointError unless the names look like a Wan S2V transformer."""
    present = set(names)
    if all(key in present for key in S2V_KEYS):
        return
    raise CheckpointError(
        f"{file_name} is not a Wan2.2-S2V transformer: it looks like {describe(present)}. "
        "Pick a Wan2.2-S2V-14B file, for example wan2.2_s2v_14B_bf16.safetensors, in models/diffusion_models."
    )


def describe(names: set[str]) -> str:
    """Say in words what a file with these tensor names is."""
    if any(re.search(r"(lora_(up|down|A|B)|\.alpha$)", name) for name in names):
        return "a LoRA; load the base model here and the LoRA with a LoRA loader"
    stripped = {name.removeprefix(prefix) for prefix in ("", *KEY_PREFIXES) for name in names}
    return next((text for key, text in OTHER_MODELS if key in stripped), f"something else ({len(names)} tensors)")


def collapse_shards(names: Sequence[str]) -> list[str]:
    """Replace the shards of each sharded checkpoint by the name of its index file, which stands for all of them."""
    return sorted({SHARD.sub(r"\1" + INDEX_SUFFIX, name) for name in names})


def shard_files(index: Path) -> list[Path]:
    """The shards that an index file lists.

    Raises:
        CheckpointError: if the index cannot be read or a shard is missing.
    """
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index.name} is not the index of a sharded checkpoint ({error!r}). Download the folder again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent.name}: {len(missing)} of {len(names)} shards are missing ({', '.join(missing[:3])}). Download them."
        )
    return [index.parent / name for name in names]


def infer_config(shapes: Shapes, metadata: Mapping[str, str] | None = None, inject_layers: Sequence[int] | None = None) -> WanS2VConfig:
    """Read the architecture from tensor shapes; the injected blocks come from metadata unless the file is the 14B model.

    Args:
        metadata: of the safetensors file; `config` may hold JSON with a `transformer` object.
        inject_layers: the injected blocks, where they are known already.
    Raises:
        CheckpointError: if the blocks that get audio cannot be known.
    """
    absent = [name for name in DIMENSION_KEYS if name not in shapes]
    if absent:
        raise CheckpointError(f"The file is incomplete: {_listing('missing', absent)}. Download it again or pick another one.")
    stored = _stored_config(metadata)
    num_layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    num_injectors = sum(bool(re.fullmatch(r"audio_injector\.injector\.\d+\.q\.weight", name)) for name in shapes)
    inject_layers = tuple(inject_layers or stored.get("audio_inject_layers", S2V_14B.audio_inject_layers))
    if len(inject_layers) != num_injectors or max(inject_layers, default=0) >= num_layers:
        raise CheckpointError(
            f"The file has {num_layers} blocks and {num_injectors} audio injectors; the injected blocks {inject_layers} do not fit. "
            "Give the metadata `config.transformer.audio_inject_layers`, or use an unmodified Wan2.2-S2V-14B file."
        )
    dim = shapes["patch_embedding.weight"][0]
    if dim % HEAD_DIM:
        raise CheckpointError(f"The model width {dim} is not a multiple of {HEAD_DIM}, so this is not a Wan2.2-S2V file.")
    return WanS2VConfig(
        dim=dim,
        ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
        num_layers=num_layers,
        text_dim=shapes["text_embedding.0.weight"][1],
        audio_dim=shapes["casual_audio_encoder.encoder.conv1_local.conv.weight"][1],
        audio_inject_layers=inject_layers,
        num_audio_layers=shapes["casual_audio_encoder.weights"][1],
        in_channels=shapes["patch_embedding.weight"][1],
        cond_channels=shapes["cond_encoder.weight"][1],
    )


def _stored_config(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The `transformer` object of the metadata; other programs use `config` for other things, which say nothing here."""
    try:
        stored = json.loads((metadata or {})["config"])["transformer"]
    except (KeyError, TypeError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def expected_shapes(config: WanS2VConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint with this configuration (1,260 for the 14B model)."""
    dim, ffn, c = config.dim, config.ffn_dim, config.in_channels
    shapes: dict[str, tuple[int, ...]] = {"trainable_cond_mask.weight": (3, dim), "head.modulation": (1, 2, dim)}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def attention(name: str) -> None:
        for part in "qkvo":
            layer(f"{name}.{part}", dim, dim)
        shapes[f"{name}.norm_q.weight"] = shapes[f"{name}.norm_k.weight"] = (dim,)

    layer("patch_embedding", dim, c, 1, 2, 2)
    layer("cond_encoder", dim, config.cond_channels, 1, 2, 2)
    layer("frame_packer.proj", dim, c, 1, 2, 2)
    layer("frame_packer.proj_2x", dim, c, 2, 4, 4)
    layer("frame_packer.proj_4x", dim, c, 4, 8, 8)
    layer("text_embedding.0", dim, config.text_dim)
    layer("text_embedding.2", dim, dim)
    layer("time_embedding.0", dim, config.freq_dim)
    layer("time_embedding.2", dim, dim)
    layer("time_projection.1", 6 * dim, dim)
    layer("head.head", config.out_channels * 4, dim)
    _audio_encoder(shapes, layer, config)
    for index in range(config.num_layers):
        name = f"blocks.{index}"
        shapes[f"{name}.modulation"] = (1, 6, dim)
        attention(f"{name}.self_attn")
        attention(f"{name}.cross_attn")
        layer(f"{name}.norm3", dim)
        layer(f"{name}.ffn.0", ffn, dim)
        layer(f"{name}.ffn.2", dim, ffn)
    for index in range(len(config.audio_inject_layers)):
        attention(f"audio_injector.injector.{index}")
        layer(f"audio_injector.injector_adain_layers.{index}.linear", 2 * dim, dim)
    return shapes


def _audio_encoder(shapes: dict[str, tuple[int, ...]], layer: Callable[..., None], config: WanS2VConfig) -> None:
    name, dim = "casual_audio_encoder", config.dim
    shapes[f"{name}.weights"] = (1, config.num_audio_layers, 1, 1)
    shapes[f"{name}.encoder.padding_tokens"] = (1, 1, 1, dim)
    layer(f"{name}.encoder.conv1_local.conv", dim // 4 * config.num_audio_tokens, config.audio_dim, 3)
    layer(f"{name}.encoder.conv1_global.conv", dim // 4, config.audio_dim, 3)
    layer(f"{name}.encoder.conv2.conv", dim // 2, dim // 4, 3)
    layer(f"{name}.encoder.conv3.conv", dim, dim // 2, 3)
    layer(f"{name}.encoder.final_linear", dim, dim)


def check_shapes(shapes: Shapes, config: WanS2VConfig, file_name: str) -> None:
    """Raise CheckpointError if a tensor is missing, unexpected or has the wrong shape (quantisation scales are allowed)."""
    found = {name: shape for name, shape in shapes.items() if not name.endswith(QUANTISATION_SUFFIXES) and name != "scaled_fp8"}
    problems = compare_shapes(found, expected_shapes(config))
    if problems:
        raise CheckpointError(f"{file_name} does not fit Wan2.2-S2V: {problems}. Download the file again or pick another one.")


def compare_shapes(found: Shapes, expected: Shapes) -> str:
    """Say which tensors are missing, unexpected or of the wrong shape; "" if none is."""
    shared = [(name, tuple(found[name]), tuple(expected[name])) for name in sorted(expected.keys() & found.keys())]
    problems = [
        _listing("missing", sorted(expected.keys() - found.keys())),
        _listing("unexpected", sorted(found.keys() - expected.keys())),
        _listing("of the wrong shape", [f"{name} {shape} instead of {right}" for name, shape, right in shared if shape != right]),
    ]
    return "; ".join(filter(None, problems))


def _listing(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} tensors {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

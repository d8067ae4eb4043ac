"""What a Wan S2V checkpoint must hold: tensor names, shapes, configuration. Strict, with errors that say what to do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..constants import HEAD_DIM
from ..transformer.config import S2V_14B, WanS2VConfig
from ..untrusted import cut, read_json
from .file_format import CheckpointError
from .identify import Shapes, count_layers
from .shapes import require_dimensions, require_fit

DIMENSION_RANKS = {
    "patch_embedding.weight": 5,
    "cond_encoder.weight": 5,
    "blocks.0.ffn.0.weight": 2,
    "text_embedding.0.weight": 2,
    "casual_audio_encoder.weights": 4,
    "casual_audio_encoder.encoder.conv1_local.conv.weight": 3,
}


def infer_config(
    shapes: Shapes,
    metadata: Mapping[str, str] | None = None,
    inject_layers: Sequence[int] | None = None,
    file_name: str = "The model",
) -> WanS2VConfig:
    """Read the architecture from tensor shapes; the injected blocks come from metadata unless the file is the 14B model.

    Args:
        metadata: of the safetensors file; `config` may hold JSON with a `transformer` object.
        inject_layers: the injected blocks, where they are known already.
    Raises:
        CheckpointError: if the blocks that get audio cannot be known.
    """
    require_dimensions(shapes, DIMENSION_RANKS, file_name)
    num_layers, num_injectors = count_layers(shapes, "blocks"), count_layers(shapes, r"audio_injector\.injector")
    inject_layers = tuple(inject_layers or _stored_inject_layers(metadata) or S2V_14B.audio_inject_layers)
    if len(inject_layers) != num_injectors or max(inject_layers) >= num_layers:
        raise CheckpointError(
            f"{file_name} has {num_layers} blocks and {num_injectors} audio injectors; the injected blocks {cut(str(inject_layers))} "
            "do not fit. Give the metadata `config.transformer.audio_inject_layers`, or use an unmodified Wan2.2-S2V-14B file."
        )
    dim = shapes["patch_embedding.weight"][0]
    if dim % HEAD_DIM:
        raise CheckpointError(f"{file_name}: the width {dim} is not a multiple of {HEAD_DIM}. Use an unmodified Wan2.2-S2V-14B file.")
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


def _stored_inject_layers(metadata: Mapping[str, str] | None) -> list[int]:
    """The injected blocks that the metadata names; other programs use `config` for other things, which say nothing here."""
    try:
        stored: Any = read_json((metadata or {})["config"])["transformer"]["audio_inject_layers"]
    except (KeyError, TypeError, ValueError):
        return []
    is_sound = isinstance(stored, list) and all(type(index) is int and index >= 0 for index in stored) and len(set(stored)) == len(stored)
    return stored if is_sound else []


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
    require_fit(shapes, expected_shapes(config), "Wan2.2-S2V", file_name)

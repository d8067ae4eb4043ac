"""Builds transformers' Wav2Vec2Model from a Hugging Face folder or a single file, strictly."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..untrusted import MOST_JSON_BYTES, cut, read_json, read_plain, shown
from .file_format import AGAIN_OR_OTHER, SAFETENSORS, CheckpointError
from .identify import WAV2VEC2, count_layers, require, require_audio_layers, unwrap
from .shapes import compare_shapes, require_dimensions
from .weights_file import reading, require_floats, require_tensors

CONFIG_FILE = "config.json"
HEAD_DIM = 64  # of every published wav2vec2 model
LARGE_CONFIG = {  # wav2vec2-large-xlsr-53: used when no config.json lies beside the file
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}
SETTINGS = {  # of a config.json that decide the result; the rest is for training, and transformers makes as many labels as it asks for
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("feat_extract_norm", "feat_extract_activation", "conv_dim", "conv_stride", "conv_kernel", "conv_bias", "num_feat_extract_layers"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm"),
    *("add_adapter", "num_adapter_layers", "adapter_kernel_size", "adapter_stride", "adapter_attn_dim", "output_hidden_size"),
}
STRIDE = 320  # samples of a row of features: Wan2.2-S2V listens 50 times a second
UNUSED = re.compile(r"^(lm_head\.|quantizer\.|project_(q|hid)\.|masked_spec_embed$)")
POSITIONAL_CONV = "encoder.pos_conv_embed.conv."
CONVOLUTION = re.compile(r"feature_extractor\.conv_layers\.\d\.conv\.weight")
DIMENSION_RANKS = {
    "encoder.layer_norm.weight": 1,
    "encoder.layers.0.feed_forward.intermediate_dense.weight": 2,
    POSITIONAL_CONV + "weight": 3,
    **{f"feature_extractor.conv_layers.{index}.conv.weight": 3 for index in range(7)},
}
DOWNLOAD_AGAIN = "Download the whole wav2vec2 folder again, or move a single file to a folder of its own, without config.json."
REASON = re.compile(r"(?:.*:\n\s*\w+: )?((?:(?!\. Errors:).){0,200})")  # of an error, without what transformers puts around it


def load_wav2vec2(path: Path) -> nn.Module:
    """Load a wav2vec2 model in float32 on the CPU.

    Args:
        path: a weights file; `config.json` in the same folder is used when present.
    Raises:
        CheckpointError: if the file is not wav2vec2 or does not fit its configuration.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model  # slow to import

    contents = _read(path)
    require(WAV2VEC2, {name: tuple(tensor.shape) for name, tensor in contents.items()}, path.name)
    bare = unwrap(contents, path.name)
    require_floats(bare, path.name)
    state_dict = clean_state_dict(bare)
    require_dimensions({name: tuple(tensor.shape) for name, tensor in state_dict.items()}, DIMENSION_RANKS, path.name)
    settings = read_config(path, state_dict)
    with _fitting(path):
        config = Wav2Vec2Config(**settings)
        stride = math.prod(config.conv_stride)
    require_audio_layers(config.num_hidden_layers, path.name)
    if stride != STRIDE:
        raise _misfit(path, f": its rows lie {shown(stride)} samples apart instead of {STRIDE}")
    config._attn_implementation = "sdpa"
    with _fitting(path), torch.device("meta"):  # without random weights, which take longer than the file
        model = Wav2Vec2Model(config)
    nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    model.masked_spec_embed = None
    shapes, expected = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (state_dict, model.state_dict()))
    problems = compare_shapes(shapes, expected)
    if problems:
        raise _misfit(path, f": {problems}")
    model.to_empty(device="cpu").load_state_dict(state_dict)
    return model.train(False).requires_grad_(False)


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Around transformers, which raises anything for a configuration that it cannot build."""
    try:
        yield
    except Exception as error:
        reason = f"{cut(str(error))} is not known" if isinstance(error, KeyError) else REASON.match(str(error))[1]  # type: ignore[index]
        raise _misfit(path, f" ({reason})") from error


def _misfit(path: Path, problem: str) -> CheckpointError:
    if (path.parent / CONFIG_FILE).is_file():
        return CheckpointError(f"{path.name} does not fit the {CONFIG_FILE} beside it{problem}. {DOWNLOAD_AGAIN}")
    return CheckpointError(f"{path.name} does not fit wav2vec2-large{problem}. {AGAIN_OR_OTHER}")


def clean_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave training heads out, in float32; fold the weight norm of the positional convolution."""
    kept = {name: tensor.float() for name, tensor in state_dict.items() if not UNUSED.match(name)}
    for gain, direction in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        g, v = kept.get(POSITIONAL_CONV + gain), kept.get(POSITIONAL_CONV + direction)
        if g is not None and v is not None and v.ndim == 3 and g.shape == (1, 1, v.shape[2]):
            kept[POSITIONAL_CONV + "weight"] = torch._weight_norm(v, g, dim=2)
            del kept[POSITIONAL_CONV + gain], kept[POSITIONAL_CONV + direction]
    return kept


def read_config(path: Path, state_dict: dict[str, Tensor]) -> dict[str, object]:
    """The model's config.json, or the published large configuration with the dimensions of the tensors."""
    config_file = path.parent / CONFIG_FILE
    if config_file.is_file():
        stored = _stored_config(config_file, path)
        return _require_size({name: value for name, value in stored.items() if name in SETTINGS}, state_dict, path)
    hidden = state_dict["encoder.layer_norm.weight"].shape[0]
    layers = count_layers(state_dict, r"encoder\.layers")
    positional = state_dict[POSITIONAL_CONV + "weight"]
    convolutions = [state_dict[name].shape for name in sorted(state_dict) if CONVOLUTION.fullmatch(name)]
    return {
        **LARGE_CONFIG,
        "conv_dim": [shape[0] for shape in convolutions],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // HEAD_DIM),
        "intermediate_size": state_dict["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        "num_conv_pos_embeddings": positional.shape[2],
        "num_conv_pos_embedding_groups": hidden // positional.shape[1],
    }


def _stored_config(config_file: Path, path: Path) -> dict[str, object]:
    try:
        config = read_json(read_plain(config_file, MOST_JSON_BYTES, through_links=True))
    except OSError as error:
        raise CheckpointError(f"{config_file} cannot be read: {error.strerror}. {DOWNLOAD_AGAIN}") from error
    except ValueError as error:
        raise CheckpointError(f"{config_file} is not valid JSON. {DOWNLOAD_AGAIN}") from error
    if not isinstance(config, dict) or config.get("model_type", "wav2vec2") != "wav2vec2":
        raise CheckpointError(
            f"{config_file} is not the configuration of a wav2vec2 model. Put the one of {path.name} there, "
            "or give the file a folder of its own."
        )
    return config


def _require_size(config: dict[str, object], state_dict: dict[str, Tensor], path: Path) -> dict[str, object]:
    """The configuration, unless it asks for more layers than there are tensors: transformers would build them all."""
    for name, value in config.items():
        count = len(value) if isinstance(value, list) else value if name.endswith("_layers") and isinstance(value, int) else 0
        if count > len(state_dict):
            raise _misfit(path, f": {cut(name)} asks for {count:,} of them, and the file holds {len(state_dict):,} tensors")
    return config


def _read(path: Path) -> dict[str, Tensor]:
    with reading(path):
        is_safetensors = path.suffix.lower() in SAFETENSORS
        contents = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    return require_tensors(contents, path)

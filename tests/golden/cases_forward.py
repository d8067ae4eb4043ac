"""Kind `forward`: one call of the transformer, with its intermediate values."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ...wan_s2v_model.checkpoints.s2v import check_shapes
from ...wan_s2v_model.transformer import model as transformer_module
from ...wan_s2v_model.transformer.config import WanS2VConfig
from ...wan_s2v_model.transformer.model import Conditions, WanS2VTransformer
from .case import EXACT, Case, Measured, Row, failure

OUT_TOLERANCE = 2e-5
INTERMEDIATE_TOLERANCE = 2e-5
ROPE_TOLERANCE = 1e-6
ALL_BUCKETS = 2  # the effective `add_last_motion` of the published model: all three motion buckets are used
CONFIG_NAMES = {  # argument of the reference -> field of WanS2VConfig
    **{name: name for name in ("dim", "ffn_dim", "num_layers", "text_dim", "text_len", "audio_dim", "freq_dim", "eps")},
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "cond_dim": "cond_channels",
    "num_audio_token": "num_audio_tokens",
}


def replay(case: Case) -> Iterator[Row]:
    model = build_model(case)
    drop_motion = case.setting("drop_motion_frames")
    if not drop_motion and case.setting("add_last_motion", ALL_BUCKETS) != ALL_BUCKETS:
        raise ValueError(f"add_last_motion {case.metadata['add_last_motion']} is not supported, only {ALL_BUCKETS}")
    motion_latents = case.optional_input("in.motion_latents") if drop_motion else case.input("in.motion_latents")
    conditions = Conditions(
        contexts(case),
        case.input("in.ref_latents"),
        case.input("in.audio_input"),
        motion_latents=None if drop_motion else motion_latents,
        pose_latents=case.input("in.cond_states"),
    )
    x = case.input("in.x")
    probe = Probe(model, case.setting("first_injected_block", min(model.config.audio_inject_layers)))
    out = model(x, case.input("in.t"), conditions)
    measured = {"out": Measured(out, OUT_TOLERANCE)}
    measured |= {f"dbg.{name}": Measured(value, INTERMEDIATE_TOLERANCE) for name, value in probe.values.items()}
    positions = transformer_module.token_positions(*x.shape[2:], not drop_motion)
    measured["dbg.rope_pos"] = Measured(positions, EXACT)
    for name in ("dbg.rope_cos", "dbg.rope_sin"):
        measured[name] = Measured(measured[name].value, ROPE_TOLERANCE)
    measured["dbg.mask_ids"] = Measured(_mask_rows(model, x, conditions), EXACT)
    yield from case.compare(measured)


class Probe:
    """Records the intermediate values of a model's next call under the names of the stored tensors."""

    def __init__(self, model: WanS2VTransformer, first_injected_block: int):
        self.values: dict[str, Tensor] = {}
        self._first_injected_block = first_injected_block
        audio = model.casual_audio_encoder
        model.blocks[0].register_forward_pre_hook(self._before_block)
        model.blocks[0].register_forward_hook(lambda module, args, out: self._keep(block0_out=out.summed()))
        model.audio_injector.register_forward_hook(self._after_injection)
        model.head.register_forward_pre_hook(lambda module, args: self._keep(e_head=args[1]))
        model.text_embedding.register_forward_hook(self._after_text)
        audio.register_forward_hook(lambda module, args, out: self._keep(audio_global=out[0], audio_local=out[1]))
        audio.encoder.register_forward_hook(lambda module, args, out: self._keep(audio_global_full=out[0], audio_local_full=out[1]))

    def _keep(self, **values: Tensor) -> None:
        self.values |= {name: value.clone() for name, value in values.items()}  # the audio injector works in place

    def _before_block(self, module, args) -> None:
        stream, e, _, (cos, sin) = args[:4]
        self._keep(block0_in=stream.summed(), e0=e, rope_cos=cos, rope_sin=sin)

    def _after_text(self, module, args, out) -> None:
        self._keep(text_ctx_first8=out[:, :8], text_ctx_last1=out[:, -1:])

    def _after_injection(self, module, args, out) -> None:
        if args[1] == self._first_injected_block:
            self._keep(audio_inject0_out=out.summed())


def _mask_rows(model: WanS2VTransformer, x: Tensor, conditions: Conditions) -> Tensor:
    """Which row of the mask embedding the model adds to each token [B, S], found by numbering the rows."""

    def tokens(rows: Tensor) -> Tensor:
        weight = rows[:, None].expand_as(model.trainable_cond_mask.weight)
        model.trainable_cond_mask.weight = nn.Parameter(weight.clone(), requires_grad=False)
        return model.embed_tokens(x, conditions)[0]

    rows = torch.arange(3.0)
    return (tokens(rows) - tokens(torch.zeros(3)))[..., 0].round()


def contexts(case: Case) -> Tensor:
    """[B, L, text_dim]: the text embeddings of the batch, padded with zeros to the longest."""
    contexts = [case.input(f"in.context.{index}") for index in range(case.tensors["in.x"].shape[0])]
    longest = max(context.shape[0] for context in contexts)
    return torch.stack([F.pad(context, (0, 0, 0, longest - context.shape[0])) for context in contexts])


def build_model(case: Case) -> WanS2VTransformer:
    """The model of a case, in float32; its parameters are shared and must not be changed in place."""
    config, state_dict = load_weights(case.path("model_file"))
    scale = case.setting("weight_scale", "none")
    if isinstance(scale, dict):
        state_dict = {name: tensor * scale["factor"] if re.search(scale["regex"], name) else tensor for name, tensor in state_dict.items()}
    model = WanS2VTransformer(config, device="meta")
    model.load_state_dict(state_dict, assign=True)  # shares the cached tensors: never change a parameter in place
    return model.requires_grad_(False)


@cache
def load_weights(path: Path) -> tuple[WanS2VConfig, dict[str, Tensor]]:
    """Configuration and float32 tensors of a stored model."""
    state_dict = {name: tensor.float() for name, tensor in load_file(path).items()}
    stored = read_config(path)
    config = WanS2VConfig(
        audio_inject_layers=tuple(stored["audio_inject_layers"]),
        num_audio_layers=state_dict["casual_audio_encoder.weights"].shape[1],
        head_dim=stored["dim"] // stored["num_heads"],
        **{ours: stored[theirs] for theirs, ours in CONFIG_NAMES.items() if theirs in stored},
    )
    check_shapes({name: tuple(tensor.shape) for name, tensor in state_dict.items()}, config, path.name)
    return config, state_dict


def read_config(model_file: Path) -> dict:
    """The reference's arguments of a model, stored beside its weights."""
    return json.loads(model_file.with_name(f"{model_file.stem}.config.json").read_text())


def replay_index(root: Path, path: Path) -> Iterator[Row]:
    """Each line of the index against the metadata and the output of the file that it describes."""
    name = path.relative_to(root).as_posix()
    for entry in json.loads(path.read_text()):
        file = path.with_name(entry["file"])
        if not file.is_file():
            yield Row(name, entry["file"], 0.0, None, "listed, but not in this folder")
            continue
        case = Case(root, file)
        out = case.tensors["out"]
        found = {**case.metadata, "out_absmax": out.abs().max().item(), "out_std": out.std().item(), "batch": out.shape[0]}
        wrong = [f"{key} {entry[key]}, found {found.get(key)}" for key in entry if key != "file" and not _equal(found.get(key), entry[key])]
        yield Row(name, entry["file"], float(len(wrong)), EXACT, "; ".join(wrong))


def _equal(found, listed) -> bool:
    return abs(found - listed) <= 1e-5 if isinstance(found, float) and isinstance(listed, float) else found == listed


def replay_sensitivity(root: Path, path: Path) -> Iterator[Row]:
    """The table of deliberate mistakes is for the tests; here it only has to be one."""
    name = path.relative_to(root).as_posix()
    table = json.loads(path.read_text())["table"]
    if all(isinstance(change, float) for changes in table.values() for change in changes.values()):
        yield Row(name, "table", 0.0, None, f"{len(table)} lines of deliberate mistakes; nothing to compute")
    else:
        yield failure(name, "table", "expected {mistake: {case: change of the output}}")

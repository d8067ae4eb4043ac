"""LoRA files for Wan in the usual dialects: finds what each tensor changes in the model and says what does not fit.

Knows names and shapes only; the arithmetic is that of ComfyUI's adapters.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .file_format import CheckpointError, some
from .identify import LORA, TRAINING_WRAPPER, Kind, Shapes, identify
from .lora_adapters import (
    MAGNITUDES,
    NO_CONVOLUTION,
    RESCALED,
    WRONG_SHAPE,
    Misfit,
    adapter_kind,
    reads,
    require_fit,
    require_shape,
    with_axes,
)
from .lora_settings import LoraSettings

# kohya and musubi-tuner: lora_unet_; VideoX-Fun: lora_unet__; SimpleTuner: lycoris_; PEFT: base_model.model.
PREFIX = re.compile(
    r"(?:(?:base_model|model|diffusion_model|transformer|unet|dit|pipe|net|module)\.|lora_unet_+|lora_transformer_|lycoris_)*"
)
NAME = r"(?:\.[^.]+)?"  # of an adapter, as PEFT inserts it
SUFFIX = re.compile(
    rf"\.(?:(?P<down>(?:lora_down|lora_A|lora\.down|lora_linear_layer\.down){NAME}\.weight|lora_A)"
    rf"|(?P<up>(?:lora_up|lora_B|lora\.up|lora_linear_layer\.up){NAME}\.weight|lora_B)"
    rf"|(?P<magnitude>dora_scale|lora_magnitude_vector{NAME}(?:\.weight)?)"
    r"|(?P<weight>diff|w_norm)|(?P<bias>diff_b|b_norm)|(?P<modulation>diff_m)"
    r"|(?P<as_is>alpha|set_weight|lora_mid\.weight|hada_\w+|lokr_\w+|oft_blocks|rescale|[ab][12]\.weight))$"
)
PARTS = {  # group of SUFFIX -> the name that ComfyUI's adapters read
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "magnitude": MAGNITUDES,
    "weight": "diff",
    "bias": "diff_b",
    "modulation": "diff",
}
RANK_OF = {"low rank": "lora_down.weight", "LoHa": "hada_w1_b"}  # kind of adapter -> the part with as many rows as its rank
DIFFERENCES = {"diff": "weight difference", "diff_b": "bias difference", "set_weight": "new weight"}

# Our names -> those of the diffusers library, replaced one after the other.
TO_DIFFUSERS = (
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(\.attn[12]|\.injector\.\d+)\.([qkv])$", r"\1.to_\2"),
    (r"(\.attn[12]|\.injector\.\d+)\.o$", r"\1.to_out.0"),
    (r"\.ffn\.0$", ".ffn.net.0.proj"),
    (r"\.ffn\.2$", ".ffn.net.2"),
    (r"\.norm3$", ".norm2"),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head$", "proj_out"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^(text|time)_embedding\.0$", r"condition_embedder.\1_embedder.linear_1"),
    (r"^(text|time)_embedding\.2$", r"condition_embedder.\1_embedder.linear_2"),
)
STRANGERS = (  # part of a name -> what it belongs to
    (
        r"img_emb|image_embedder|k_img|v_img|add_[kv]_proj|norm_added",
        "for the picture input of Wan image-to-video",
    ),
    (r"vace", "for the control input of Wan VACE"),
    (r"lora_te|text_encoder|text_model", "for a text encoder"),
    (r"", "for parts that this model does not have"),
)
UNKNOWN = "in a form that is not known"
TWICE = "in the file twice, under two names"
BESIDE = "beside an adapter of the same module, which is used instead"
MIXED = "of a second kind of adapter for the same module"
OTHER_MODEL = {WRONG_SHAPE, *(text for _, text in STRANGERS)}  # reasons that speak of the model that a file was made for
UNREADABLE = {UNKNOWN, NO_CONVOLUTION, RESCALED}
LIVE_AVATAR_MODULES = re.compile(r"(blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])|audio_injector\.injector\.\d+\.[qkvo])\.weight")
LIVE_AVATAR_RANKS = {5120: 128, 256: 8}  # by the width of the model; the second is that of its tiny stand-in
LIVE_AVATAR_FACTOR = 0.5  # alpha / rank
WIDTHS = {1536: "a Wan model of 1.3B (width 1536)", 3072: "a Wan model of 5B (width 3072)"}


@dataclass(frozen=True)
class Lora:
    """What a LoRA file changes, and what of it does not fit.

    Attributes:
        name: of the file. num_tensors: in the file.
        tensors: `<module>.<part>` in the part names of ComfyUI's adapters, for example `blocks.0.ffn.0.lora_up.weight`.
        targets: module -> name of the checkpoint tensor that its adapter changes.
        changes: kind of change -> modules.
        alphas: where an alpha comes from that is no tensor of the file, in words -> modules.
        unused: reason -> tensors of the file, with what does not fit, for example both shapes.
        is_live_avatar: it is the one that Live-Avatar was trained with, by its modules and rank.
    """

    name: str
    num_tensors: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    changes: dict[str, list[str]] = field(default_factory=dict)
    alphas: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)
    is_live_avatar: bool = False

    @property
    def summary(self) -> str:
        """One line: how much of the file fits and what it changes."""
        used = self.num_tensors - sum(map(len, self.unused.values()))
        kinds = ", ".join(f"{kind} {len(modules)}" for kind, modules in self.changes.items())
        return f"{self.name}: {used} of {self.num_tensors} tensors fit, {len(self.targets)} modules change ({kinds})"

    def report(self) -> str:
        """Summary, changes by part of the model, and every tensor that is not used, with the reason."""
        lines = [self.summary, *self._places(), *self.noted_alphas()]
        if self.is_live_avatar:
            lines.append("It is Live-Avatar's, for Sample Video Live (Wan S2V); the other samplers have no use for it")
        if self.without_alpha():
            lines.append(f"{self.without_alpha()} low rank changes have no alpha: strength 1 adds them unscaled")
        for reason, keys in self.unused.items():
            lines += [f"not used, {reason} ({len(keys)}):", *(f"  {key}" for key in keys)]
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """One line for each reason why tensors are not used."""
        return [f"{self.name}: {len(keys)} tensors not used, {reason}: {some(keys)}" for reason, keys in self.unused.items()]

    def noted_alphas(self) -> list[str]:
        """One line for each alpha that is no tensor of the file, with the number of changes that it scales."""
        return [f"{words} ({len(modules)} changes)" for words, modules in self.alphas.items()]

    def without_alpha(self) -> int:
        return sum(f"{module}.alpha" not in self.tensors for module in self.changes.get("low rank", ()))

    def _places(self) -> Iterator[str]:
        for kind, modules in self.changes.items():
            places: dict[str, int] = {}
            for module in modules:
                place = re.sub(r"^blocks\.\d+\.|\.\d+\b", "", module)
                places[place] = places.get(place, 0) + 1
            yield f"{kind}: " + ", ".join(f"{place} {count}" for place, count in places.items())


def read_lora(tensors: Mapping[str, Tensor], shapes: Shapes, name: str, settings: LoraSettings | None = None) -> Lora:
    """Find what each tensor of a LoRA file changes.

    Args:
        shapes: of the model's tensors, under the names of the checkpoint.
        name: of the file, for messages.
        settings: give an alpha to adapters that have none among their tensors.
    Raises:
        CheckpointError: if the file is no LoRA, or if nothing of it fits the model.
    """
    if not any(SUFFIX.search(key) or LORA.search(key) for key in tensors):
        found = identify({key: tuple(tensor.shape) for key, tensor in tensors.items()})
        words = found.words if isinstance(found, Kind) else found
        raise CheckpointError(f"{name} is not a LoRA: it looks like {words}. Pick a LoRA in models/loras.")
    lora = Lora(name, len(tensors))
    modules = _by_module(tensors, shapes, lora.unused)
    for module, keys in modules.items():
        _add_module(lora, module, keys, tensors, shapes)
        if settings and module in lora.targets and f"{module}.alpha" not in lora.tensors:
            _add_alpha(lora, module, keys, settings)
    if not lora.changes:
        reasons = "; ".join(f"{len(keys)} {reason} ({some(keys)})" for reason, keys in lora.unused.items())
        raise CheckpointError(f"Nothing of the LoRA {name} fits Wan2.2-S2V-14B: {reasons}. {_origin(lora, modules, tensors)}")
    return _with_live_avatars_alpha(lora) if _is_live_avatar(lora, shapes) else lora


def _is_live_avatar(lora: Lora, shapes: Shapes) -> bool:
    """Whether a file changes exactly the modules of Live-Avatar's LoRA, all in its rank."""
    modules = {module_of(name) for name in shapes if LIVE_AVATAR_MODULES.fullmatch(name)}
    rank = LIVE_AVATAR_RANKS.get(shapes["blocks.0.self_attn.q.weight"][0]) if modules else None
    has_rank = all(len(tensor) == rank for name, tensor in lora.tensors.items() if name.endswith(RANK_OF["low rank"]))
    return bool(modules) and lora.changes.keys() == {"low rank"} and set(lora.targets) == modules and has_rank


def _with_live_avatars_alpha(lora: Lora) -> Lora:
    """Its file does not say with what alpha it was trained; without one it would be added twice too strong."""
    for module in lora.targets:
        if f"{module}.alpha" in lora.tensors:
            continue
        rank = len(lora.tensors[f"{module}.{RANK_OF['low rank']}"])
        alpha, factor = LIVE_AVATAR_FACTOR * rank, LIVE_AVATAR_FACTOR
        lora.tensors[f"{module}.alpha"] = torch.tensor(alpha)
        _note(lora.alphas, f"alpha {alpha:g} is that of Live-Avatar's training: strength 1 adds rank {rank} times {factor}", module)
    return replace(lora, is_live_avatar=True)


def module_of(tensor_name: str) -> str:
    """The module that a checkpoint tensor belongs to; a parameter that is no weight or bias stands for itself."""
    return re.sub(r"\.(weight|bias)$", "", tensor_name)


def diffusers_name(module: str) -> str:
    """What the diffusers library calls one of our modules."""
    for pattern, name in TO_DIFFUSERS:
        module = re.sub(pattern, name, module)
    return module


def _by_module(tensors: Mapping[str, Tensor], shapes: Shapes, unused: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """Module -> part -> key of the file; keys without a place go to `unused`."""
    modules = {module_of(name) for name in shapes}
    names = {name: module for module in sorted(modules) for name in (module, diffusers_name(module))}
    names |= {name.replace(".", "_"): module for name, module in names.items()}
    found: dict[str, dict[str, str]] = {}
    for key in tensors:
        stem, part = _split(key)
        module = names.get(stem)
        if module is None or part is None:
            _note(unused, UNKNOWN if part is None else _stranger(key), key)
        elif found.setdefault(module, {}).setdefault(part, key) != key:
            _note(unused, TWICE, key)
    return found


def _split(key: str) -> tuple[str, str | None]:
    """Name of the module without what trainers put around it, and the part in the names of ComfyUI's adapters."""
    suffix = SUFFIX.search(key)
    stem = PREFIX.sub("", TRAINING_WRAPPER.sub("", key[: suffix.start()] if suffix else key), count=1)
    if suffix is None:
        return stem, None
    group = str(suffix.lastgroup)
    return (f"{stem}.modulation" if group == "modulation" else stem), PARTS.get(group, suffix[group])


def _stranger(key: str) -> str:
    return next(text for pattern, text in STRANGERS if re.search(pattern, key))


def _add_module(lora: Lora, module: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor], shapes: Shapes) -> None:
    """Add the changes of one module to `lora`, or the reasons why they are not used."""
    weight = f"{module}.weight" if f"{module}.weight" in shapes else module
    kind = adapter_kind(keys)
    adapter = [part for part in keys if part not in DIFFERENCES and reads(kind, part)]
    units = [(kind, adapter, weight)] if adapter else []
    units += [(what, [part], f"{module}.bias" if part == "diff_b" else weight) for part, what in DIFFERENCES.items() if part in keys]
    for what, names, target in sorted(units):  # adapters before the differences of weights
        parts = {part: tensors[keys[part]] for part in names}
        try:
            _require_use(what, parts, shapes.get(target), adapted=module in lora.changes.get(kind, ()))
        except Misfit as misfit:
            for part in names:
                _note(lora.unused, misfit.reason, f"{keys[part]} {misfit.detail}".rstrip())
            continue
        shape = shapes[target]
        lora.tensors.update({f"{module}.{part}": with_axes(parts[part], shape) if part == MAGNITUDES else parts[part] for part in names})
        lora.targets[module] = weight
        _note(lora.changes, what, module)
    for part in keys:
        if part not in DIFFERENCES and part not in adapter:
            _note(lora.unused, MIXED, keys[part])


def _add_alpha(lora: Lora, module: str, keys: Mapping[str, str], settings: LoraSettings) -> None:
    part = RANK_OF.get(adapter_kind(keys), "")
    if f"{module}.{part}" not in lora.tensors:
        return
    rank = len(lora.tensors[f"{module}.{part}"])
    names = (SUFFIX.sub("", keys[part]), _split(keys[part])[0], module, diffusers_name(module))
    if not settings.fits(names, rank):
        _note(lora.alphas, f"alpha of {settings.source} is not used, because it is for another rank than {rank}", module)
        return
    alpha = settings.alpha_of(names, rank)
    if alpha is not None:
        lora.tensors[f"{module}.alpha"] = torch.tensor(alpha)
        _note(lora.alphas, f"alpha from {settings.source}: strength 1 adds rank {rank} times {alpha / rank:.4g}", module)


def _require_use(what: str, parts: Mapping[str, Tensor], target: Sequence[int] | None, adapted: bool) -> None:
    """Raise Misfit unless this change can be applied to a tensor of this shape, of a module with or without an adapter in use."""
    if target is None:
        raise Misfit(STRANGERS[-1][1])
    if what not in DIFFERENCES.values():
        require_fit(what, parts, target)
        return
    (difference,) = parts.values()
    if adapted and what != DIFFERENCES["diff_b"]:
        raise Misfit(BESIDE)
    require_shape(difference.shape, target)


def _origin(lora: Lora, modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, Tensor]) -> str:
    """Where a file comes from of which nothing fits, as far as its names and shapes say."""
    if lora.unused.keys() <= UNREADABLE:
        return "The help page of this node lists the forms that it reads."
    if lora.unused.keys().isdisjoint(OTHER_MODEL):
        return "The file is incomplete or damaged; get it again."
    inputs = [tensors[keys["lora_down.weight"]] for name, keys in modules.items() if "self_attn" in name and "lora_down.weight" in keys]
    widths = {WIDTHS.get(math.prod(tensor.shape[1:]), "another model") for tensor in inputs}
    return f"It was made for {widths.pop() if len(widths) == 1 else 'another model'}."


def _note(lists: dict[str, list[str]], name: str, entry: str) -> None:
    lists.setdefault(name, []).append(entry)

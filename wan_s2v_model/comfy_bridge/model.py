"""Our transformer as the model inside a ComfyUI MODEL, and our forward pass on the layers of other loaders' MODELs."""

import copy
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import comfy.context_windows
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_prefetch
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models
import torch
from torch import Tensor, nn

from ..checkpoints.identify import S2V, require
from ..checkpoints.s2v import infer_config
from ..conditioning.clip import latents_of_window, sound_of_latents
from ..constants import DEFAULT_SHIFT
from ..kernels.casting import cast_weights
from ..transformer.blocks import OVERRIDE, Compute
from ..transformer.config import WanS2VConfig
from ..transformer.crew import Member
from ..transformer.model import ClipConstants, Conditions, SharedSelfAttention, WanS2VTransformer, share_layers
from ..transformer.speakers import Regions
from .gpus import crew_of
from .kernels import SPEEDS, Computation, describe, pick_attention, pick_linears, wants_float8_attention
from .memory import in_host_memory
from .patches import ROOT, bound_to, patch_raw_parameters, share_raw_parameters, take_replaced_modules
from .runtime import raise_if_interrupted

logger = logging.getLogger("wan_s2v")

PRECISIONS = {"official": torch.float32, "fast": None}  # dtype of the residual stream; None: that of the weights
AUDIO_STRENGTH_KEY = "wan_s2v_audio_strength"  # in transformer_options: how much of the sound is heard, 1 without it
CONSTANTS_KEY = "wan_s2v_constants"  # in transformer_options: a ClipMemory that lives as long as the sampling of one clip
ROOMY_BYTES = 8 * 2**30  # free GPU memory beyond which everything constant stays on the GPU
POSE_LEVELS_KEY = "wan_s2v_pose_levels"  # in transformer_options: noise levels at which the pose is seen, above and up to; else at all
REGIONS_KEY = "wan_s2v_regions"  # in transformer_options: the Regions of a clip with several speakers, whose sounds are then stacked
WINDOWED = ("audio_embed", "control_video")  # conditionings that have the time of the video
WHOLE = ("reference_latent", "reference_motion")  # and those that every context window sees as they are
SCHEDULE_KEY = "wan_s2v_schedule"  # in transformer_options: the Schedule whose truncated timesteps the model gets


class ComfyTransformer(WanS2VTransformer):
    """Our transformer behind the call signature of ComfyUI's Wan models, so that wrappers such as EasyCache find it."""

    def __init__(self, config, precision, attention, speed=SPEEDS[0], *, dtype=None, device=None, operations=None, **_: Any):
        super().__init__(config, operations=operations, dtype=dtype, device=device, residual_dtype=PRECISIONS[precision])
        self.attention_name = attention
        self.speed = speed

    @torch.compiler.disable(recursive=False)
    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):  # type: ignore[override]
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    @torch.compiler.disable(recursive=False)
    def _forward(self, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        arguments = x, timestep, context, clip_fea, time_dim_concat, transformer_options
        return run_transformer(*arguments, transformer=self, attention_name=self.attention_name, speed=self.speed, **kwargs)


@torch.compiler.disable(recursive=False)  # what torch.compile can do is inside of the blocks
def run_transformer(  # noqa: PLR0913
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    clip_fea: Tensor | None,
    time_dim_concat: Tensor | None,
    transformer_options: dict[str, Any],
    *,
    transformer: WanS2VTransformer,
    attention_name: str,
    speed: str = SPEEDS[0],
    audio_embed: Tensor | None = None,
    reference_latent: Tensor | None = None,
    reference_motion: Tensor | None = None,
    control_video: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """`_forward` of a Wan model: calls the transformer with the conditioning names that ComfyUI's own S2V nodes use."""
    if reference_latent is None:
        raise ValueError("Wan S2V got no reference picture. Sample with WanS2VSampler, or add the conditioning of WanSoundImageToVideo.")
    schedule = transformer_options.get(SCHEDULE_KEY)
    conditions = Conditions(
        context,
        reference_latent,
        audio_embedding=audio_embed,
        motion_latents=reference_motion,
        pose_latents=control_video if _sees_pose(transformer_options) else None,
        audio_strength=transformer_options.get(AUDIO_STRENGTH_KEY, 1.0),
        regions=_regions(transformer_options),
    )
    call = ModelCall(
        x,
        timestep if schedule is None else schedule.truncated_timesteps(timestep),
        conditions,
        transformer_options,
        _shared_attention(transformer_options, x.device),
    )
    forward, crew = Forward(transformer, attention_name, speed), crew_of(transformer_options)
    if crew is None:
        return call.run(forward)
    is_alone = len(crew.patchers) == 1 or is_watched(transformer_options)

    def work(patcher: comfy.model_patcher.ModelPatcher, member: Member) -> Tensor:
        if member.rank == 0:
            return call.run(forward, None if is_alone else member, member.check)
        return x if is_alone else call.for_member(member).run(forward_of(patcher), member, member.check)

    return crew.run(work)


@dataclass(frozen=True)
class ModelCall:
    """The inputs of one model call.

    Attributes:
        shared_attention: decided by the leader of a crew, for all members have to do the same.
    """

    x: Tensor
    timestep: Tensor
    conditions: Conditions
    transformer_options: dict[str, Any]
    shared_attention: SharedSelfAttention | None

    def for_member(self, member: Member) -> "ModelCall":
        """The same call on the GPU of a member."""

        def moved(value: Any) -> Any:
            return member.fetch(value) if isinstance(value, Tensor) else value

        conditions = Conditions(**{name: moved(value) for name, value in vars(self.conditions).items()})
        return replace(
            self,
            x=moved(self.x),
            timestep=moved(self.timestep),
            conditions=conditions,
            transformer_options=dict(self.transformer_options),
        )

    def run(self, forward: "Forward", team: Member | None = None, check: Callable[[], None] = lambda: None) -> Tensor:
        """The result of a transformer, alone or as a member of a team; `check` is called between blocks and may raise."""
        x, options, transformer = self.x, self.transformer_options, forward.transformer
        compute = Compute(
            attention=pick_attention(forward.attention, x.device, wants_float8_attention(forward.speed)),
            linears=pick_linears(forward.speed, x.device, x.dtype),
            cast=cast_comfy_weights,
            transformer_options=options,
        )
        return WanS2VTransformer.forward(
            transformer,
            x,
            self.timestep,
            self.conditions,
            compute,
            remember=_memory_of(options, x),
            next_block=layers_just_in_time(transformer, x.device, options, check),
            shared_attention=self.shared_attention,
            team=team,
        )


def is_watched(transformer_options: dict[str, Any]) -> bool:
    """Whether another node looks into the blocks, which on several GPUs hold a part of the tokens only."""
    return bool(transformer_options.get("patches_replace", {}).get("dit") or transformer_options.get("patches", {}).get("double_block"))


def _regions(transformer_options: dict[str, Any]) -> Regions | None:
    regions, window = transformer_options.get(REGIONS_KEY), transformer_options.get("context_window")
    return regions if regions is None or window is None else regions.of_latents(latents_of_window(window))


def _sees_pose(transformer_options: dict[str, Any]) -> bool:
    if POSE_LEVELS_KEY not in transformer_options:
        return True
    lowest, highest = transformer_options[POSE_LEVELS_KEY]
    return lowest < float(transformer_options["sigmas"][0]) <= highest


def layers_just_in_time(
    transformer: WanS2VTransformer, device: torch.device, transformer_options: dict[str, Any], check: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """To be called before each block and behind the last: fetches its layers, and raises ComfyUI's interrupt and what `check` raises."""
    fetch = _prefetch(transformer, device, transformer_options)

    def run() -> None:
        raise_if_interrupted()
        check()
        fetch()

    return run


@torch.compiler.disable
def _prefetch(transformer: WanS2VTransformer, device: torch.device, transformer_options: dict[str, Any]) -> Callable[[], None]:
    """ComfyUI's block prefetch, for weights that wait in main memory: fetches the layers of a block together, where there is room."""
    if comfy.model_management.get_free_memory(device) < ROOMY_BYTES:
        return lambda: None
    layers = [transformer.layers_of_step(index) for index in range(len(transformer.blocks))]
    queue = comfy.model_prefetch.make_prefetch_queue(layers, device, transformer_options)
    return lambda: comfy.model_prefetch.prefetch_queue_pop(queue, device, None)


class ClipMemory:
    """Constants of one clip for each set of conditionings. An object, because ComfyUI copies dicts between steps.

    Args:
        on_host: even where the GPU seems to have room.
        shares_attention: the conditionings differ in prompt and sound only.
    """

    def __init__(self, on_host: bool = False, shares_attention: bool = False) -> None:
        self.constants: dict[tuple, ClipConstants] = {}
        self.on_host = on_host
        self.shared_attention = SharedSelfAttention() if shares_attention and not on_host else None


def _memory_of(transformer_options: dict[str, Any], x: Tensor) -> Callable[[Callable[[], ClipConstants]], ClipConstants]:
    """Keep a clip's constants for each set of conditionings while our sampler works on the clip; others compute them every time."""
    memory = transformer_options.get(CONSTANTS_KEY)
    if memory is None or "context_window" in transformer_options:
        return lambda build: build()
    key = (*transformer_options["uuids"], x.device, x.dtype, x.shape)

    def remember(build: Callable[[], ClipConstants]) -> ClipConstants:
        if key not in memory.constants:
            memory.constants[key] = _on_host_if_short(build(), x.device, memory.on_host)
        return memory.constants[key]

    return remember


def _shared_attention(transformer_options: dict[str, Any], device: torch.device) -> SharedSelfAttention | None:
    """That of our sampler, where there is room for it and no other node changes what goes into the first block."""
    memory = transformer_options.get(CONSTANTS_KEY)
    replaced = transformer_options.get("patches_replace", {}).get("dit", {})
    if memory is None or OVERRIDE in transformer_options or ("double_block", 0) in replaced:
        return None
    return memory.shared_attention if comfy.model_management.get_free_memory(device) >= ROOMY_BYTES else None


def _on_host_if_short(constants: ClipConstants, device: torch.device, always: bool) -> ClipConstants:
    """The keys and values of a prompt take 0.4 GB at full size; where GPU memory is short they wait in host memory."""
    if device.type != "cuda" or not (always or comfy.model_management.get_free_memory(device) <= ROOMY_BYTES):
        return constants
    return replace(constants, text=[(in_host_memory(keys), in_host_memory(values)) for keys, values in constants.text])


@contextmanager
def cast_comfy_weights(layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias of a ComfyUI layer on the device and in the dtype of x, LoRA applied, wherever they are stored."""
    if not hasattr(layer, "comfy_cast_weights"):
        with cast_weights(layer, x) as plain:
            yield plain
        return
    own_cast = getattr(layer, "cast_bias_weight", None)
    if own_cast is not None:  # a layer that another loader brings dequantises and patches its weights itself
        yield own_cast(x)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class S2VModel(comfy.model_base.WAN22_S2V):
    """ComfyUI's model around our transformer; conditioning names stay those of its own S2V nodes."""

    def __init__(self, model_config, device=None):
        comfy.model_base.BaseModel.__init__(self, model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=ComfyTransformer)
        self.memory_usage_factor_conds = ("reference_latent", "reference_motion")
        self.memory_usage_shape_process = {"reference_motion": lambda shape: [shape[0], shape[1], 1.5, shape[-2], shape[-1]]}

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=None):
        return cut_for_window(cond_key, cond_value, window, x_in, device)


class S2VModelConfig(comfy.supported_models.WAN22_S2V):
    """Not registered with ComfyUI, so that its own loaders behave as before."""

    sampling_settings = {"shift": DEFAULT_SHIFT}  # noqa: RUF012
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def get_model(self, state_dict, prefix="", device=None):
        return S2VModel(self, device=device)


def cut_for_window(name: str, cond: Any, window: Any, x: Tensor, device: Any, *_: Any) -> Any:
    """The part of a conditioning that a context window of ComfyUI sees; None for names that it cuts itself."""
    if name not in WINDOWED and name not in WHOLE:
        return None
    if name in WHOLE:  # ComfyUI takes axes of the right size for time
        return cond
    latents = latents_of_window(window)
    if name == "control_video":
        return cond._copy_with(cond.cond[:, :, latents].to(device))
    return cond._copy_with(sound_of_latents(cond.cond, latents, x.shape[window.dim]).to(device))


def _with_windows_that_cut(model: comfy.model_patcher.ModelPatcher) -> None:
    """Let the context windows that another node has put on a MODEL cut sound and pose, whoever loaded it."""
    handler = model.model_options.get("context_handler")
    if hasattr(handler, "callbacks"):
        handler = copy.copy(handler)
        kinds = handler.callbacks.get("callbacks", {})  # their lists are copied, not the objects whose methods stand in them
        handler.callbacks = {"callbacks": {kind: {key: [*calls] for key, calls in keys.items()} for kind, keys in kinds.items()}}
        resize = comfy.context_windows.IndexListCallbacks.RESIZE_COND_ITEM
        comfy.patcher_extension.add_callback(resize, cut_for_window, handler.callbacks)
        model.model_options["context_handler"] = handler


def with_s2v_forward(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """A clone of any MODEL that holds Wan S2V weights, running our forward on them.

    A model of our loader runs it already; for ComfyUI's own S2V model (UNETLoader, GGUF) our transformer shares its layers.
    """
    model = model.clone()
    config = s2v_config(model.model.diffusion_model)
    _with_windows_that_cut(model)
    replaced = take_replaced_modules(model)
    _put_forward(model, config, replaced)
    kind, key = comfy.patcher_extension.CallbacksMP.ON_MATCH_MULTIGPU_CLONES, "wan_s2v"
    model.remove_callbacks_with_key(kind, key)
    model.add_callback_with_key(kind, key, lambda _, clone: _put_forward(clone, config, replaced))
    return model


def _put_forward(model: comfy.model_patcher.ModelPatcher, config: WanS2VConfig, replaced: dict[str, Callable[..., Tensor]]) -> None:
    """Let our forward run on the layers of a MODEL, or of its copy on another GPU, with the forwards that replace those of some modules."""
    native = model.model.diffusion_model
    patch_raw_parameters(model)
    forwards = {path: bound_to(forward, native.get_submodule(path)) for path, forward in replaced.items()}
    if isinstance(native, ComfyTransformer):
        for path, forward in forwards.items():
            model.add_object_patch(f"{ROOT}{path}.forward", forward)
        return
    transformer = WanS2VTransformer(config, device="meta")
    share_layers(transformer, native)
    share_raw_parameters(transformer, model)
    for path, forward in forwards.items():
        transformer.get_submodule(path).forward = forward
    model.add_object_patch("diffusion_model._forward", functools.partial(run_transformer, transformer=transformer, attention_name="auto"))


class Forward(NamedTuple):
    """What runs in a MODEL that `with_s2v_forward` returned, and the settings of its loader."""

    transformer: WanS2VTransformer
    attention: str
    speed: str


def forward_of(model: comfy.model_patcher.ModelPatcher) -> Forward:
    """The transformer of such a MODEL, ours or one that shares the layers of another."""
    transformer = model.model.diffusion_model
    if isinstance(transformer, ComfyTransformer):
        return Forward(transformer, transformer.attention_name, transformer.speed)
    keywords = model.object_patches["diffusion_model._forward"].keywords
    return Forward(keywords["transformer"], keywords["attention_name"], SPEEDS[0])


def computation_of(model: comfy.model_patcher.ModelPatcher, device: torch.device, rounded: str = "") -> Computation:
    """What such a MODEL computes with on a device, in words. rounded: what is kept in few bits beside it."""
    options = model.model_options.get("transformer_options", {})
    return describe(forward_of(model), device, model.model.get_dtype_inference(), options, rounded)


def s2v_config(native: Any) -> WanS2VConfig:
    """The architecture of the transformer inside any MODEL.

    Raises:
        CheckpointError: if it is not Wan S2V.
    """
    if isinstance(native, ComfyTransformer):
        return native.config
    shapes = _shapes(native)
    require(S2V, shapes, "The connected MODEL")
    return infer_config(shapes, inject_layers=tuple(native.audio_injector.injected_block_id))


def _shapes(native: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights; a linear layer of another loader may hold bytes in another shape, but knows its sizes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in native.state_dict().items()}
    linear = {name: layer for name, layer in native.named_modules() if hasattr(layer, "in_features")}
    return {**shapes, **{f"{name}.weight": (layer.out_features, layer.in_features) for name, layer in linear.items()}}

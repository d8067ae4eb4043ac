"""The pack's own sockets, and what may be connected to them and to ComfyUI's."""

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.audio.features import EncodedAudio
from ..wan_s2v_model.conditioning.dub import Dub
from ..wan_s2v_model.conditioning.plan import Continuity, Plan
from ..wan_s2v_model.runs.clips import Clips
from ..wan_s2v_model.sampling.guidance import AudioGuidance, SamplingOptions
from ..wan_s2v_model.sampling.step_cache import StepCache
from ..wan_s2v_model.untrusted import shown

WanS2VAudio = io.Custom("WAN_S2V_AUDIO")  # wan_s2v_model.audio.features.EncodedAudio
WanS2VPoseSettings = io.Custom("WAN_S2V_POSE")  # wan_s2v_model.comfy_bridge.ConnectedPose
WanS2VDubSettings = io.Custom("WAN_S2V_DUB")  # wan_s2v_model.conditioning.dub.Dub
WanS2VPlan = io.Custom("WAN_S2V_PLAN")  # wan_s2v_model.conditioning.plan.Plan
WanS2VGuidance = io.Custom("WAN_S2V_AUDIO_GUIDANCE")  # wan_s2v_model.sampling.guidance.AudioGuidance
WanS2VContinuitySettings = io.Custom("WAN_S2V_CONTINUITY")  # wan_s2v_model.conditioning.plan.Continuity
WanS2VOptions = io.Custom("WAN_S2V_SAMPLING_OPTIONS")  # wan_s2v_model.sampling.guidance.SamplingOptions
WanS2VStepCacheSettings = io.Custom("WAN_S2V_STEP_CACHE")  # wan_s2v_model.sampling.step_cache.StepCache
WanS2VClips = io.Custom("WAN_S2V_CLIPS")  # wan_s2v_model.runs.clips.Clips


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_text(item: Any) -> bool:
    is_pair = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], dict)
    return is_pair and isinstance(item[0], torch.Tensor) and _is_numbers(item[0]) and item[0].ndim == 3 and item[0].numel() > 0


def _is_sigmas(value: Any) -> bool:
    """How many there are and whether they fall is looked at where the sampler takes them, which says so in words."""
    return isinstance(value, torch.Tensor) and _is_numbers(value)


def _is_numbers(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta


SOCKETS: dict[
    str, tuple[Callable[[Any], bool], str]
] = {  # type -> what fits, and where it comes from; IMAGE and AUDIO are read where they are used
    "MODEL": (_has("model", "model_options", "clone"), "a node that loads a model"),
    "CLIP": (_has("tokenize", "encode_from_tokens_scheduled"), "Load Wan S2V Text Encoder"),
    "VAE": (_has("encode", "decode", "first_stage_model"), "Load Wan S2V VAE"),
    "CONDITIONING": (_is_conditioning, "Encode Prompt (Wan S2V)"),
    "VIDEO": (_has("get_components"), "Load Video"),
    "SAMPLER": (_has("sample"), "a node that chooses a sampler"),
    "SIGMAS": (_is_sigmas, "a scheduler"),
    "WAN_S2V_AUDIO": (_is(EncodedAudio), "Encode Audio (Wan S2V)"),
    "WAN_S2V_POSE": (_is(comfy_bridge.ConnectedPose), "Pose (Wan S2V)"),
    "WAN_S2V_DUB": (_is(Dub), "Dub Video (Wan S2V)"),
    "WAN_S2V_PLAN": (_is(Plan), "Prepare Video (Wan S2V)"),
    "WAN_S2V_AUDIO_GUIDANCE": (_is(AudioGuidance), "Audio Guidance (Wan S2V)"),
    "WAN_S2V_CONTINUITY": (_is(Continuity), "Continuity (Wan S2V)"),
    "WAN_S2V_SAMPLING_OPTIONS": (_is(SamplingOptions), "Sampling Options (Wan S2V)"),
    "WAN_S2V_STEP_CACHE": (_is(StepCache), "Step Cache (Wan S2V)"),
    "WAN_S2V_CLIPS": (_is(Clips), "Sample Video (Wan S2V)"),
}


def socket_problem(socket: io.Input, value: Any) -> str | None:
    """What is wrong with what is connected, None if nothing: ComfyUI looks at the names of types only, and not at literals."""
    name = str(socket.get_io_type())
    fits, source = SOCKETS.get(name, (None, ""))
    if fits is None or (value is None and (socket.optional or socket.lazy)) or fits(value):
        return None
    return f"{socket.id} must be a {name} from {source}; got {shown(value)}. Connect {source} to it."

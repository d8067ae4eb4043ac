"""What sampling a plan costs: tokens, memory, floating-point operations and time, known before anything is sampled."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from ..checkpoints.s2v import expected_shapes
from ..conditioning.timeline import Timeline
from ..constants import MOTION_FRAMES, MOTION_LATENTS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..kernels.row_chunks import chunk_size
from ..transformer.config import WanS2VConfig
from .vae_memory import DECODE

# Calibration: how many tensors of all tokens live at the same time, from the code and checked by a test that counts them.
ATTENTION_TENSORS = 4  # of the compute dtype beside one residual stream: q, k, v and what is attended to
ROTATED_TENSORS = 4  # the same without fused kernels, while a chunk of k is rotated: input, q, k and the normed k
ROTATION_BYTES = 10  # per value of that chunk: a copy in float32, and three halves
STREAMED_BLOCKS = 2  # blocks whose weights are on the GPU when all weights stream: one works, one arrives
WORKSPACE_BYTES = 0.8e9  # of cuBLAS and cuDNN, and what the allocator cannot use again

VAE_DECODE_FLOP = 33.9e6  # per pixel and latent; the first latent, one frame, is a third
VAE_ENCODE_FLOP = 20.2e6
FIRST_LATENT = 1 / 3
FLOAT32_BYTES = 4
ONCE_PER_CLIP = re.compile(r"text_embedding|casual_audio_encoder|.*(cross_attn|injector\.\d+)\.(k|v|norm_k)\.|.*adain")  # projections


@dataclass(frozen=True)
class Job:
    """What is to be sampled.

    Attributes:
        height, width: pixels. model_calls: per step, the mean of all steps; guidance makes it two.
        first_clip: earlier ones are there already. vae_value_bytes: size of a value of the VAE.
        vae_warmup: latents of motion that are decoded in front of a later clip.
        conditionings: sets of constants that are kept for a clip; None: as many as the calls of a step.
        disk_bytes: that the clips which are left will take.
        work: how long a step takes, in model calls of one GPU; None: as many as it makes. works: the same of a step of so many calls,
            where several GPUs share it.
    """

    timeline: Timeline
    height: int
    width: int
    steps: int
    model_calls: float
    first_clip: int = 0
    vae_value_bytes: int = 4
    vae_warmup: int = MOTION_LATENTS
    conditionings: int | None = None
    disk_bytes: float = 0
    work: float | None = None
    works: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFacts:
    """A loaded transformer, or one that is assumed.

    Attributes:
        weights_bytes: as stored. value_bytes, residual_bytes: size of a value in the computation and in the residual stream.
        is_resident: all weights stay on the GPU. is_file_backed: weights that are not on the GPU can be read from the file again.
        held_bytes: weights that are in main memory already and cannot be dropped. has_kernels: the fused kernels run.
        copies: one for each GPU; those that are not file-backed are in main memory one by one.
    """

    config: WanS2VConfig
    weights_bytes: float
    value_bytes: int
    residual_bytes: int
    is_resident: bool = False
    is_file_backed: bool = True
    held_bytes: float = 0
    has_kernels: bool = True
    copies: int = 1

    @property
    def host_bytes(self) -> float:
        """Main memory for all weights of all copies."""
        return self.weights_bytes * (1 if self.is_file_backed else self.copies)


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second that a device reaches in linear layers (and all between them), attention and VAE."""

    linear: float
    attention: float
    vae: float


@dataclass(frozen=True)
class Estimate:
    """What a job costs with a model.

    Attributes:
        tokens: of the largest clip. least_device_bytes: with which it runs at all, weights streaming unless they are resident.
        full_device_bytes: with which no step has to fetch weights and the VAE needs no detour. host_bytes: main memory with all
        weights in it. clip_host_bytes: main memory for the frames of a clip.
        linear_flop, attention_flop: of one model call. seconds: for all clips that are left.
    """

    tokens: int
    least_device_bytes: float
    full_device_bytes: float
    host_bytes: float
    clip_host_bytes: float
    linear_flop: float
    attention_flop: float
    seconds: float


def estimate(job: Job, model: ModelFacts, rates: Rates) -> Estimate:
    """Estimate memory and time of a job; bytes are for one model call at a time."""
    with_motion = job.timeline.num_clips > 1 or not job.timeline.free_start
    tokens, video_tokens = _tokens(job, with_motion)
    activations = activation_bytes(tokens, model)
    constants = constant_bytes(tokens, job, model)
    streamed = streamed_weights(model, STREAMED_BLOCKS)
    working = activations + WORKSPACE_BYTES
    resident = model.weights_bytes + working + constants
    decode = DECODE.video * job.vae_value_bytes * job.height * job.width
    clip_host = _clip_host_bytes(job)
    linear, attention = model_flop(model.config, tokens, video_tokens)
    return Estimate(
        tokens=tokens,
        least_device_bytes=resident if model.is_resident else min(resident, working + streamed),
        full_device_bytes=max(resident if model.is_resident else weights_of_step(model) + working + constants, decode),
        host_bytes=model.host_bytes + clip_host,
        clip_host_bytes=clip_host,
        linear_flop=linear,
        attention_flop=attention,
        seconds=_seconds(job, model.config, rates),
    )


def num_tokens(num_latent_frames: int, height: int, width: int, with_motion: bool) -> int:
    """Tokens of one clip; height and width in latents."""
    frame = (height // 2) * (width // 2)
    motion = frame + (height // 4) * (width // 4) + 4 * (height // 8) * (width // 8)
    return (num_latent_frames + 1) * frame + (motion if with_motion else 0)


def model_flop(config: WanS2VConfig, tokens: int, video_tokens: int) -> tuple[float, float]:
    """Floating-point operations of one model call: linear layers with the attention to text and sound, and self attention."""
    dim, injectors = config.dim, len(config.audio_inject_layers)
    weights = 6 * dim**2 + 2 * dim * config.ffn_dim  # that meet every token in a block: self attention, text query and output, ffn
    text = 2 * config.text_len * dim  # as many multiplications: scores and sums over the prompt
    linear = 2 * config.num_layers * (weights + text) * tokens + 4 * injectors * dim**2 * video_tokens
    return float(linear), 4.0 * config.num_layers * dim * tokens**2


def activation_bytes(tokens: int, model: ModelFacts) -> float:
    """GPU memory that one model call needs beside weights and constants, at its widest place, the self attention."""
    config, value, residual = model.config, model.value_bytes, model.residual_bytes
    attention = tokens * (residual + ATTENTION_TENSORS * value)
    if model.has_kernels:
        return config.dim * attention
    rotation = tokens * (residual + ROTATED_TENSORS * value) + chunk_size(tokens) * ROTATION_BYTES
    return config.dim * max(attention, rotation)


def constant_bytes(tokens: int, job: Job, model: ModelFacts) -> float:
    """GPU memory for what is computed once per clip: keys and values of prompt and sound, and the rope table."""
    config, value = model.config, model.value_bytes
    text = (2 * config.num_layers + 1) * config.text_len * config.dim * value
    rows = job.timeline.num_latent_frames * len(config.audio_inject_layers)
    audio = 2 * rows * config.dim * ((config.num_audio_tokens + 1) * value + 4)
    sets = math.ceil(job.model_calls) if job.conditionings is None else job.conditionings
    return sets * (text + audio) + 4 * tokens * config.head_dim


@cache
def num_parameters(config: WanS2VConfig, is_counted: Callable[[str], bool] = bool) -> int:
    """Weights of a model; `is_counted` picks some of them by name."""
    return sum(math.prod(shape) for name, shape in expected_shapes(config).items() if is_counted(name))


def _tokens(job: Job, with_motion: bool) -> tuple[int, int]:
    """Tokens of a clip, and how many of them are of the video."""
    size = job.height // SPATIAL_STRIDE, job.width // SPATIAL_STRIDE
    frames = job.timeline.num_latent_frames
    return num_tokens(frames, *size, with_motion), frames * (size[0] // 2) * (size[1] // 2)


def _clip_host_bytes(job: Job) -> float:
    """Frames that are in memory at once: those decoded, in parts and in one piece, and the history."""
    decoded = TEMPORAL_STRIDE * (job.vae_warmup + job.timeline.num_latent_frames) - 3
    return (2 * decoded + MOTION_FRAMES) * job.height * job.width * 3 * FLOAT32_BYTES


def _seconds(job: Job, config: WanS2VConfig, rates: Rates) -> float:
    return sum(_clip_seconds(job, clip, config, rates) for clip in range(job.first_clip, job.timeline.num_clips))


def _clip_seconds(job: Job, clip: int, config: WanS2VConfig, rates: Rates) -> float:
    """Sampling, decoding behind the context, and encoding of the history for the next clip."""
    with_motion = clip > 0 or not job.timeline.free_start
    linear, attention = model_flop(config, *_tokens(job, with_motion))
    call = linear / rates.linear + attention / rates.attention
    context = job.vae_warmup if with_motion else 1
    vae_flop = VAE_DECODE_FLOP * (context + job.timeline.num_latent_frames - 1 + FIRST_LATENT)
    if clip + 1 < job.timeline.num_clips:
        vae_flop += VAE_ENCODE_FLOP * (MOTION_LATENTS - 1 + FIRST_LATENT)
    work = job.model_calls if job.work is None else job.work
    return job.steps * work * call + vae_flop * job.height * job.width / rates.vae


def weights_of_step(model: ModelFacts) -> float:
    """Bytes of the weights that every step needs."""
    return _weights(model, _is_in_every_step)


def streamed_weights(model: ModelFacts, blocks: int) -> float:
    """Bytes of the weights of so many blocks."""
    return blocks * _weights(model, _is_first_block)


def _weights(model: ModelFacts, is_counted: Callable[[str], bool]) -> float:
    """Bytes of some of the weights, as a share of what is stored."""
    return model.weights_bytes * num_parameters(model.config, is_counted) / num_parameters(model.config)


def _is_first_block(name: str) -> bool:
    return name.startswith("blocks.0.")


def _is_in_every_step(name: str) -> bool:
    return not ONCE_PER_CLIP.match(name)

"""Samples clips through ComfyUI's guider, so that its samplers, previews, caches and multi-GPU nodes apply."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ..conditioning.clip import ALL_STEPS, ClipConditioning
from ..conditioning.plan import AS_REFERENCE, Continuity
from ..conditioning.prompts import begin_of_prompt, conditioning_of_clip
from ..constants import MOTION_LATENTS
from ..cost.estimate import model_flop, num_tokens
from ..kernels.row_chunks import CHUNK_ROWS_KEY
from ..sampling.clip_loop import clip_seed
from ..sampling.gpus import ANY_CALL, Call, Speeds, describe
from ..sampling.guidance import AudioGuidance, Scale, audio_scale, model_calls
from ..sampling.inpainting import Inpainting, at_level
from ..sampling.progress import Progress
from ..sampling.schedule import Schedule, build_schedule, check_sigmas, guided_levels, guided_steps
from ..sampling.solvers import SOLVERS
from ..sampling.step_cache import CachedClips, StepCache, Steps
from ..transformer.config import WanS2VConfig
from ..transformer.speakers import Regions
from .display import RunDisplay, computation_in_words, lines_without_effect
from .gpus import Gpus, gpus_of, speeds_of
from .kernels import wants_float8_attention
from .memory import KEPT, RetryInLessMemory, load_all_weights, take_all_others_off_gpu
from .model import AUDIO_STRENGTH_KEY, CONSTANTS_KEY, POSE_LEVELS_KEY, REGIONS_KEY, SCHEDULE_KEY, ClipMemory, forward_of, with_s2v_forward
from .patches import is_for_live
from .runtime import LATENT_FORMAT

logger = logging.getLogger("wan_s2v")
ADVICE = (
    f"{KEPT}For that close other programs, or switch offload on in Load Wan S2V Model. A smaller size, fewer frames per clip or an fp8 "
    "or GGUF file help, too, but with them it is another run."
)
SMALL_CHUNK_ROWS = 2048  # tokens; a product of so many rows still keeps a GPU busy
SAMPLER_NAMES = (*SOLVERS, *(name for name in comfy.samplers.SAMPLER_NAMES if name not in SOLVERS))
OF_OTHER_MODELS = {  # in the options of a CONDITIONING: inputs of a model that other nodes add; ours come with the plan
    *("reference_latents", "reference_motion", "control_video", "audio_embed", "concat_latent_image", "concat_mask", "concat_mask_index"),
    *("concat_image", "clip_vision_output", "time_dim_concat", "vace_frames", "vace_mask", "vace_strength", "camera_conditions"),
    *("pose_video_latent", "face_video_pixels", "denoise_mask", "noise_concat", "control", "control_apply_to_uncond", "gligen"),
}
PREDICT = "sampler_calc_cond_batch_function"  # in model_options: predicts for all conditionings at once; another node may have set it


class FlowSolver(comfy.samplers.Sampler):
    """A solver of the reference as a ComfyUI SAMPLER; unlike ComfyUI's own it starts from unscaled noise where there is no source."""

    def __init__(self, function: Callable[..., Tensor], state_dtype: torch.dtype | None):
        self.function = function
        self.state_dtype = state_dtype

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        def report(step: dict[str, Any]) -> None:
            if callback is not None:
                callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)

        x = noise if latent_image is None or not latent_image.any() else at_level(latent_image, noise, sigmas[0])
        return self.function(model_wrap, x, sigmas, extra_args=extra_args, callback=report, state_dtype=self.state_dtype)


@dataclass(frozen=True)
class SamplerSettings:
    """How every clip is sampled.

    Attributes:
        solver: one of SAMPLER_NAMES, unless `sampler` (a ComfyUI SAMPLER) is given. sigmas: used instead of steps and shift.
        round_state: keep the sample in the model's dtype between UniPC steps, as the reference does.
        cfg_start, cfg_end: guidance is on between these shares of the steps; outside of them the negative prompt costs no call.
        vae_warmup: latents of motion that are decoded in front of a later clip; with all 19 as in the reference.
        audio: guidance by the sound; None guides by prompt and sound together, as the reference does.
        step_cache: guesses steps of later clips; None asks the model in all, as the reference does.
        strength: of a dub: below 1 a clip begins from its source.
    """

    steps: int
    cfg: float
    shift: float
    solver: str
    sampler: comfy.samplers.Sampler | None = None
    sigmas: Tensor | None = None
    round_state: bool = False
    cfg_start: float = 0.0
    cfg_end: float = 1.0
    vae_warmup: int = MOTION_LATENTS
    audio: AudioGuidance | None = None
    step_cache: StepCache | None = None
    strength: float = 1.0


class ClipSampler:
    """Samples clips with a MODEL that holds Wan S2V weights, through ComfyUI's guider."""

    def __init__(self, model, positive, negative, settings: SamplerSettings, seed: int, continuity: Continuity = AS_REFERENCE):
        self._has_hooks = any("hooks" in options for texts in (positive, negative) for _, options in texts)  # these change weights
        self.model = with_s2v_forward(model.get_non_dynamic_delegate() if self._has_hooks and model.is_dynamic() else model)
        if is_for_live(model):
            logger.warning(
                "the MODEL has Live-Avatar's LoRA, which was trained for live video: use Sample Video Live (Wan S2V), or take it off"
            )
        self.conditions = _texts("positive", positive), _texts("negative", negative)
        self.settings = settings
        self.seed = seed
        self.continuity = continuity
        self.on_clip: Callable[[int], None] = lambda clip: None
        self.on_step: Callable[[int, Tensor], None] = lambda done, x0: None
        self.call = ANY_CALL
        self._said = ""
        self._saves_memory = False
        self._retry = RetryInLessMemory("sampling", self._savings(), ADVICE)
        self.sampler, self.sigmas, schedule = _solver(self.model, settings)
        self.text_scale = Scale.between(settings.cfg, settings.cfg_start, settings.cfg_end, self.sigmas)
        self.audio_scale = audio_scale(settings.audio, self.text_scale, self.sigmas)
        self.cached = None if settings.step_cache is None else CachedClips(settings.step_cache, self.sigmas)
        options = self.model.model_options["transformer_options"]
        if self.cached is not None and "easycache" in options:
            logger.warning(
                "%s is on the MODEL, too: the error that the step cache states is that to a clip with it", options["easycache"].name
            )
        if schedule is not None:
            options[SCHEDULE_KEY] = schedule
        if settings.audio is not None:
            options[AUDIO_STRENGTH_KEY] = settings.audio.strength

    @property
    def config(self) -> WanS2VConfig:
        """The architecture of the transformer that runs in the MODEL."""
        return forward_of(self.model).transformer.config

    @property
    def dtype(self) -> torch.dtype:
        """In which the transformer computes."""
        return self.model.model.get_dtype_inference()

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def num_conditionings(self) -> int:
        """Those that some step asks, each of which has its constants."""
        positive, negative = self._num_texts()
        scales = self._scales_of_steps()
        silent = positive if any(cfg != audio_cfg for cfg, audio_cfg in scales) else 0
        return positive + silent + (negative if any(cfg != 1 for cfg, _ in scales) else 0)

    @property
    def calls_of_steps(self) -> list[int]:
        """Model calls in each step of a first-order solver, one for each conditioning that the step asks."""
        return [self._calls(*scales) for scales in self._scales_of_steps()]

    @property
    def calls_per_step(self) -> float:
        """The mean of `calls_of_steps`."""
        return sum(self.calls_of_steps) / self.num_steps

    @property
    def work_of_steps(self) -> list[float]:
        """How long each step takes on the GPUs of the MODEL, in calls of the first one."""
        return [self._speeds.work_of_step(calls, self.call) for calls in self.calls_of_steps]

    @property
    def work_on_gpus(self) -> str:
        """What the GPUs of the MODEL do in the steps with the most calls, in words; empty for one GPU."""
        (positive, negative), (cfg, audio_cfg) = self._num_texts(), max(self._scales_of_steps(), key=lambda scales: self._calls(*scales))
        calls = [*["prompt"] * positive, *["negative"] * negative * (cfg != 1), *["silent"] * positive * (cfg != audio_cfg)]
        return describe(self._speeds.groups(len(calls), self.call), calls, len(gpus_of(self.model)))

    def expect(self, latents_shape: Sequence[int]) -> None:
        """Tell of which size [..., F, h, w] the clips will be, which decides how GPUs share them."""
        frames, height, width = latents_shape[-3:]
        forward, config = forward_of(self.model), self.config
        tokens, video_tokens = num_tokens(frames, height, width, with_motion=True), frames * (height // 2) * (width // 2)
        is_float8 = wants_float8_attention(forward.speed)
        self.call = Call(
            work=sum(model_flop(config, tokens, video_tokens)),
            sent=2 * tokens * config.dim * config.num_layers * (1 if is_float8 else self.dtype.itemsize),
            num_heads=0 if is_float8 else config.num_heads,
        )

    @property
    def _speeds(self) -> Speeds:
        return speeds_of(self.model, forward_of(self.model)[1:])

    @contextmanager
    def report_to(
        self, progress: Progress, num_frames: int, take: str = "", check: Callable[[], None] = lambda: None
    ) -> Iterator[RunDisplay]:
        """Show progress and previews of a run in ComfyUI; `check` is called after each step and may raise."""
        logger.info("%s", computation_in_words(self.model))
        below = take + lines_without_effect(self.model)
        with RunDisplay(self.model, progress, num_frames, below, self._remark, self._gpus_below) as display:

            def on_step(done: int, x0: Tensor) -> None:
                check()
                display.step(done, x0)

            self.on_clip, self.on_step = display.begin, on_step
            yield display

    def __call__(self, clip: int, conditioning: ClipConditioning, noise: Tensor) -> Tensor:
        """Sample one clip: [1, 16, F, h, w] noise -> normalised latents, float32 on the CPU.

        Out of GPU memory it begins the clip again with the same noise, in less memory.
        """

        def sample(steps: Steps | None = None) -> Tensor:
            return self._retry.run(lambda: self._sample(clip, conditioning, noise, steps))

        if self.cached is None:
            return sample()
        return self.cached.sample(clip, max(begin_of_prompt(texts, clip) for texts in self.conditions), sample)

    def _sample(self, clip: int, conditioning: ClipConditioning, noise: Tensor, steps: Steps | None) -> Tensor:
        self.expect(noise.shape)
        guider = ScaledGuider(self.model, self.text_scale, self.audio_scale, steps, Gpus(self.call, self._speeds))
        guider.kept = kept = None if conditioning.kept is None else Inpainting(conditioning.kept, noise)
        positive, negative = (conditioning_of_clip(texts, clip) for texts in self.conditions)
        guider.set_conds(*_conditions(positive, negative, conditioning, self.model.load_device))
        options = self.model.model_options["transformer_options"]
        if conditioning.pose_steps != ALL_STEPS:
            options[POSE_LEVELS_KEY] = guided_levels(self.sigmas, guided_steps(self.num_steps, *conditioning.pose_steps))
        if conditioning.hearing is not None:
            options[REGIONS_KEY] = Regions(conditioning.hearing)
        if not self._has_hooks:
            crews = len(self._speeds.groups(self.num_conditionings, self.call))
            options[CONSTANTS_KEY] = ClipMemory(self._saves_memory, shares_attention=self.num_conditionings > crews)
        if self._saves_memory:
            options[CHUNK_ROWS_KEY] = SMALL_CHUNK_ROWS
        self.on_clip(clip)
        load_all_weights(self.model, noise.shape)
        try:
            latents = guider.sample(
                noise,
                torch.zeros_like(noise) if conditioning.kept is None else LATENT_FORMAT.process_out(conditioning.kept.latents),
                self.sampler,
                self.sigmas,
                callback=lambda step, x0, x, total: self.on_step(clip * total + min(step, total - 1) + 1, x0),  # dpm_adaptive makes more
                disable_pbar=True,
                seed=clip_seed(self.seed, self.continuity.seeded_as(clip)),
            )
        finally:
            self._gpus_below()
            options.pop(CONSTANTS_KEY, None)
            options.pop(POSE_LEVELS_KEY, None)
            options.pop(REGIONS_KEY, None)
            comfy.model_management.reset_cast_buffers()
        latents = LATENT_FORMAT.process_in(latents.float().cpu())
        return latents if kept is None else kept.restored(latents)

    def _calls(self, cfg: float, audio_cfg: float) -> int:
        return model_calls(cfg, audio_cfg, *self._num_texts())

    def _gpus_below(self) -> str:
        """`work_on_gpus` in a line of its own; the log has it, too, when it changes."""
        words = self.work_on_gpus
        if words != self._said:
            logger.info("%s", words)
            self._said = words
        return f"\n{words}" if words else ""

    def _remark(self) -> str:
        return "" if self.cached is None else self.cached.summary()

    def _num_texts(self) -> tuple[int, int]:
        """Positive and negative conditionings of a clip."""
        positive, negative = (len(conditioning_of_clip(texts, clip=0)) for texts in self.conditions)
        return positive, negative

    def _scales_of_steps(self) -> list[tuple[float, float]]:
        """Guidance by the prompt and by the sound in each step."""
        return [(self.text_scale.in_step(step), self.audio_scale.in_step(step)) for step in range(self.num_steps)]

    def _savings(self) -> Iterator[str]:
        take_all_others_off_gpu(self.model)
        yield "with everything else off the GPU"
        self._saves_memory = True
        yield "with the constants of a clip in main memory and long sequences in smaller pieces"


def _texts(name: str, conditioning: list) -> list:
    """A CONDITIONING without what other nodes have added for models of their own; a warning names it."""
    foreign = sorted({key for _, options in conditioning for key in OF_OTHER_MODELS & options.keys()})
    if not foreign:
        return conditioning
    logger.warning("the %s prompt brings %s from another node: not used, for the plan brings what we need", name, ", ".join(foreign))
    return [[tensor, {key: value for key, value in options.items() if key not in foreign}] for tensor, options in conditioning]


def _solver(model, settings: SamplerSettings) -> tuple[comfy.samplers.Sampler, Tensor, Schedule | None]:
    """SAMPLER, sigmas and, for the reference's solvers, the schedule with its truncated timesteps."""
    shift = settings.shift
    if "model_sampling" in model.object_patches:
        shift = model.get_model_object("model_sampling").shift
        logger.info("shift %s comes from the MODEL (ModelSamplingSD3), not from the sampler's input", shift)
    schedule = build_schedule(settings.solver, settings.steps, shift, settings.strength)
    sigmas = schedule.sigmas if settings.sigmas is None else check_sigmas(settings.sigmas, settings.strength)
    if settings.sampler is not None:
        return settings.sampler, sigmas, None
    if settings.solver not in SOLVERS:
        return comfy.samplers.sampler_object(settings.solver), sigmas, None
    state_dtype = model.model.get_dtype_inference() if settings.round_state else None
    return FlowSolver(SOLVERS[settings.solver].sample, state_dtype), sigmas, schedule if settings.sigmas is None else None


def _conditions(positive, negative, clip: ClipConditioning, device: torch.device) -> tuple[list, list, list]:
    """Both CONDITIONINGs of a clip and the positive one in silence, with ComfyUI's names and its unnormalised latents.

    The negative one hears nothing, either. All is on the device of the model: ComfyUI would bring it there from main memory in every
    call, and that waits until the device has done the call before.
    """
    values: dict[str, Any] = {"reference_latents": [LATENT_FORMAT.process_out(clip.ref_latents).to(device)]}
    for name, latents in (("reference_motion", clip.motion_latents), ("control_video", clip.pose_latents)):
        if latents is not None:
            values[name] = LATENT_FORMAT.process_out(latents).to(device)
    audio = clip.audio_embedding.to(device)
    silence = torch.zeros_like(audio)

    def add(conditioning, heard: Tensor) -> list:
        return [[tensor.to(device), {**options, **values, "audio_embed": heard}] for tensor, options in conditioning]

    return add(positive, audio), add(negative, silence), add(positive, silence)


class ScaledGuider(comfy.samplers.CFGGuider):
    """Guides by the prompt and by the sound, each with its scale at some noise levels and with 1 at the others.

    The prompt in silence is asked only where the scales differ, the negative prompt only where that of the prompt is not 1.
    Nobody is asked in steps that are guessed. What is kept of a dubbed video is shown to all, and never changes.
    """

    kept: Inpainting | None = None

    def __init__(
        self, model: comfy.model_patcher.ModelPatcher, text: Scale, audio: Scale, steps: Steps | None = None, gpus: Gpus | None = None
    ):
        super().__init__(model)
        self.text, self.audio, self.steps = text, audio, steps
        self.set_cfg(text.value)
        self._gpus = gpus or Gpus()
        if steps is not None:
            steps.begin()

    def set_conds(self, positive, negative, silent=()):
        super().set_conds(positive, negative)
        if self.audio != self.text:
            self.inner_set_conds({"silent": silent})

    def outer_sample(self, *args, **kwargs):
        try:
            return super().outer_sample(*args, **kwargs)
        finally:
            self._gpus.close()

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
        x = x if self.kept is None else self.kept.noised(x, timestep)
        if self.steps is None:
            x0 = self._ask(x, timestep, model_options, seed)
        else:
            x0 = self.steps.predict(x, float(timestep[0]), lambda: self._ask(x, timestep, model_options, seed))
        return x0 if self.kept is None else self.kept.restored(x0)

    def _ask(self, x, timestep, model_options, seed):
        whole, (self.cfg, audio_cfg) = self.cfg, self._scales_at(timestep)
        num_texts = (len(self.conds[name]) for name in ("positive", "negative"))
        model_options = self._gpus.for_calls(model_options, model_calls(self.cfg, audio_cfg, *num_texts))
        if audio_cfg != self.cfg:
            predict = functools.partial(self._weigh_sound, model_options.get(PREDICT, _predict), audio_cfg / self.cfg)
            model_options = {**model_options, PREDICT: predict}
        try:
            return super().predict_noise(x, timestep, model_options, seed)
        finally:
            self.cfg = whole

    def _scales_at(self, timestep: Tensor) -> tuple[float, float]:
        """Guidance by the prompt and by the sound at a noise level [B]."""
        if self.text.is_constant and self.audio.is_constant:
            return self.text.value, self.audio.value
        level = float(timestep[0])
        return self.text.at(level), self.audio.at(level)

    def _weigh_sound(self, predict, ratio: float, args: dict[str, Any]) -> list[Tensor]:
        """Predictions of both prompts, the positive one with its difference to silence times `ratio`: cfg then makes it audio_cfg."""
        heard, negative, silent = predict({**args, "conds": [*args["conds"], self.conds["silent"]]})
        return [heard + (ratio - 1) * (heard - silent), negative]


def _predict(args: dict[str, Any]) -> list[Tensor]:
    return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

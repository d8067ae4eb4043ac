"""Samples clips through ComfyUI's guider, so that its samplers, previews, caches and multi-GPU nodes apply."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..conditioning import ClipConditioning
from ..pipeline import clip_seed
from ..sampler import sample_dpmpp, sample_unipc
from ..schedule import SOLVERS, Schedule, build_schedule
from .memory import load_all_weights
from .model import CONSTANTS_KEY, SCHEDULE_KEY, ClipMemory, with_s2v_forward
from .runtime import LATENT_FORMAT

logger = logging.getLogger("wan_s2v")

SAMPLER_NAMES = (*SOLVERS, *(name for name in comfy.samplers.SAMPLER_NAMES if name not in SOLVERS))


class FlowSolver(comfy.samplers.Sampler):
    """A solver of the reference as a ComfyUI SAMPLER; unlike ComfyUI's own it starts from unscaled noise."""

    def __init__(self, function: Callable[..., Tensor], state_dtype: torch.dtype | None):
        self.function = function
        self.state_dtype = state_dtype

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        def report(step: dict[str, Any]) -> None:
            if callback is not None:
                callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)

        return self.function(model_wrap, noise, sigmas, extra_args=extra_args, callback=report, state_dtype=self.state_dtype)


@dataclass(frozen=True)
class SamplerSettings:
    """How every clip is sampled.

    Attributes:
        solver: one of SAMPLER_NAMES, unless `sampler` (a ComfyUI SAMPLER) is given. sigmas: used instead of steps and shift.
        round_state: keep the sample in the model's dtype between UniPC steps, as the reference does.
    """

    steps: int
    cfg: float
    shift: float
    solver: str
    sampler: comfy.samplers.Sampler | None = None
    sigmas: Tensor | None = None
    round_state: bool = False


class ClipSampler:
    """Samples clips with a MODEL that holds Wan S2V weights, through ComfyUI's guider."""

    def __init__(self, model, positive, negative, settings: SamplerSettings, seed: int):
        self.model = with_s2v_forward(model)
        self.conditions = positive, negative
        self.settings = settings
        self.seed = seed
        self.on_step: Callable[[int, Tensor], None] = lambda done, x0: None
        self.sampler, self.sigmas, schedule = _solver(self.model, settings)
        if schedule is not None:
            self.model.model_options["transformer_options"][SCHEDULE_KEY] = schedule

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def calls_per_step(self) -> int:
        """Model calls for one step of a first-order solver: one for each text, and no negative one without guidance."""
        positive, negative = self.conditions
        return len(positive) + (len(negative) if self.settings.cfg > 1 else 0)

    def report_to(self, total_steps: int) -> None:
        """Show progress and previews in ComfyUI's bar of that many steps."""
        self.on_step = step_reporter(self.model, total_steps)

    def __call__(self, clip: int, conditioning: ClipConditioning, noise: Tensor) -> Tensor:
        """Sample one clip: [1, 16, F, h, w] noise -> normalised latents, float32 on the CPU."""
        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(*_conditions(*self.conditions, conditioning))
        guider.set_cfg(max(1.0, self.settings.cfg))
        options = self.model.model_options["transformer_options"]
        options[CONSTANTS_KEY] = ClipMemory()
        load_all_weights(self.model, noise.shape)
        try:
            latents = guider.sample(
                noise,
                torch.zeros_like(noise),
                self.sampler,
                self.sigmas,
                callback=lambda step, x0, x, total: self.on_step(clip * total + step + 1, x0),
                disable_pbar=True,
                seed=clip_seed(self.seed, clip),
            )
        finally:
            del options[CONSTANTS_KEY]
            comfy.model_management.reset_cast_buffers()
        return LATENT_FORMAT.process_in(latents.float().cpu())


def _solver(model, settings: SamplerSettings) -> tuple[comfy.samplers.Sampler, Tensor, Schedule | None]:
    """SAMPLER, sigmas and, for the reference's solvers, the schedule with its truncated timesteps."""
    shift = settings.shift
    if "model_sampling" in model.object_patches:
        shift = model.get_model_object("model_sampling").shift
        logger.info("shift %s comes from the MODEL (ModelSamplingSD3), not from the sampler's input", shift)
    schedule = build_schedule(settings.solver, settings.steps, shift)
    sigmas = schedule.sigmas if settings.sigmas is None else settings.sigmas.float().cpu()
    if settings.sampler is not None:
        return settings.sampler, sigmas, None
    if settings.solver not in SOLVERS:
        return comfy.samplers.sampler_object(settings.solver), sigmas, None
    state_dtype = model.model.get_dtype_inference() if settings.round_state else None
    solver = FlowSolver(sample_unipc if settings.solver == "unipc" else sample_dpmpp, state_dtype)
    return solver, sigmas, schedule if settings.sigmas is None else None


def _conditions(positive, negative, clip: ClipConditioning) -> tuple[list, list]:
    """Add a clip to both CONDITIONINGs, with ComfyUI's names and its unnormalised latents; the negative one hears nothing."""
    values: dict[str, Any] = {"reference_latents": [LATENT_FORMAT.process_out(clip.ref_latents)]}
    for name, latents in (("reference_motion", clip.motion_latents), ("control_video", clip.pose_latents)):
        if latents is not None:
            values[name] = LATENT_FORMAT.process_out(latents)
    audio = clip.audio_embedding

    def add(conditioning, heard: Tensor) -> list:
        return [[tensor, {**options, **values, "audio_embed": heard}] for tensor, options in conditioning]

    return add(positive, audio), add(negative, torch.zeros_like(audio))


def step_reporter(model, total: int) -> Callable[[int, Tensor], None]:
    """A callback (steps done, predicted latents) that moves ComfyUI's progress bar and shows its latent preview."""
    import latent_preview  # a module of ComfyUI's root, not of `comfy`

    previewer = latent_preview.get_previewer(model.load_device, LATENT_FORMAT)
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, x0: Tensor) -> None:
        preview = None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(done, total, preview)

    return report

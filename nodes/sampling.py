"""The clip loop."""

import functools
import logging
from dataclasses import replace

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.comfy_bridge import ClipSampler, RunVae, SamplerSettings
from ..wan_s2v_model.conditioning.plan import AS_REFERENCE, Plan
from ..wan_s2v_model.conditioning.prompts import place_on_clips, require_finite, require_width
from ..wan_s2v_model.constants import (
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_SEED,
    DEFAULT_SHIFT,
    DEFAULT_STEPS,
    SPATIAL_STRIDE,
    VIDEO_FPS,
)
from ..wan_s2v_model.limits import LARGEST_SEED
from ..wan_s2v_model.runs.changes import IF_CHANGED, NEW_TAKE, Notes
from ..wan_s2v_model.runs.clips import Clips
from ..wan_s2v_model.runs.earlier import earlier_texts
from ..wan_s2v_model.runs.fingerprint import assumed_in_older_runs, hashes_by_clip, run_fingerprint
from ..wan_s2v_model.runs.finish import Networks, finish_and_show, require_space, run_bytes
from ..wan_s2v_model.runs.manifest import Fingerprint
from ..wan_s2v_model.runs.store import RunStore
from ..wan_s2v_model.sampling.clip_loop import clip_decoder
from ..wan_s2v_model.sampling.guidance import NO_OPTIONS
from ..wan_s2v_model.sampling.progress import Progress, video_size
from .inputs import KeepsRun, checks_inputs, clip_to_redo, opened_run, shows_errors
from .sockets import WanS2VClips, WanS2VContinuitySettings, WanS2VGuidance, WanS2VOptions, WanS2VPlan, WanS2VStepCacheSettings

logger = logging.getLogger("wan_s2v")

# Of a run; a redo may change the rest. Decode Clips decodes all clips with one VAE, warm-up and colour anchor.
FIXED = (
    *("width", "height", "frames_per_clip", "sync_mode", "clips", "frame_rate"),
    *("audio", "picture", "previous_frames", "vae", "vae_warmup", "colour_anchor", "source_video", "source_mask", "dub"),
)


def _kept_inputs(model, positive, negative, plan, settings, seed, vae, words) -> tuple[Fingerprint, Notes]:
    """What the folder of a named run is compared with; hashing it takes seconds."""
    fingerprint = run_fingerprint(model, positive, negative, plan, settings, seed, vae)
    earlier, by_clip = earlier_texts(model, positive, negative, plan, vae), hashes_by_clip(positive, negative, plan)
    return fingerprint, Notes(assumed_in_older_runs(fingerprint), earlier, comfy_bridge.versions(model), words, by_clip)


class WanS2VSampler(KeepsRun, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VSampler",
            display_name="Sample Video (Wan S2V)",
            category="wan s2v/sampling",
            description="Samples and decodes clip after clip, each continuing the motion of the one before.",
            search_aliases=["talking", "singing", "lip sync", "s2v"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2-S2V from our loader, UNETLoader or a GGUF loader; with or without LoRAs."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                WanS2VPlan.Input("plan", tooltip="From Prepare Video (Wan S2V)."),
                io.Int.Input(
                    "seed",
                    default=DEFAULT_SEED,
                    min=0,
                    max=LARGEST_SEED,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Noise of the first clip; each later clip uses the next number.",
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULT_STEPS,
                    min=1,
                    max=1000,
                    tooltip="Steps per clip. The reference uses 40; step-distilled LoRAs need 4 to 8.",
                ),
                io.Float.Input(
                    "cfg",
                    default=DEFAULT_GUIDANCE_SCALE,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance by prompt and sound against the negative prompt in silence. 1 switches it off and halves the time.",
                ),
                io.String.Input(
                    "run_name",
                    default="",
                    tooltip="Keeps every finished clip under output/wan_s2v_runs/<name>; queue again to continue after a crash or cancel. "
                    "Empty: nothing is kept.",
                ),
                io.Combo.Input(
                    "if_changed",
                    optional=True,
                    options=list(IF_CHANGED),
                    default=NEW_TAKE,
                    tooltip="Where the named run was made with other inputs. new take: a run of its own beside it, <name>_2 and so on. "
                    "stop: nothing is made, and a list says what has changed. redo ...: the clips from there on are thrown away and made "
                    "anew; another seed, sound or picture changes all of them.",
                ),
                io.Int.Input(
                    "redo_from_clip",
                    optional=True,
                    default=0,
                    min=-1,
                    max=100_000,
                    tooltip="Throw away this clip (the first is 1) and all later ones of the named run and sample again; 0 keeps all. "
                    "Cut off and queued again with the same inputs, it goes on.",
                    advanced=True,
                ),
                WanS2VContinuitySettings.Input(
                    "continuity",
                    optional=True,
                    tooltip="From Continuity (Wan S2V): an anchor against drift of colours over many clips, and the seeds of the clips. "
                    "Without it as the reference.",
                ),
                WanS2VGuidance.Input(
                    "audio_guidance",
                    optional=True,
                    tooltip="From Audio Guidance (Wan S2V). Without it cfg holds for prompt and sound together, as in the reference.",
                ),
                WanS2VOptions.Input("options", optional=True, tooltip="From Sampling Options (Wan S2V): what trades quality for time."),
                io.Sampler.Input("sampler", optional=True, tooltip="A ComfyUI sampler to use instead of solver."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Noise levels to use instead of steps and shift."),
                io.Combo.Input(
                    "solver",
                    optional=True,
                    options=list(comfy_bridge.SAMPLER_NAMES),
                    default="unipc",
                    tooltip="unipc and dpm++ are the reference's own solvers; the others are ComfyUI's samplers.",
                    advanced=True,
                ),
                io.Float.Input(
                    "shift",
                    optional=True,
                    default=DEFAULT_SHIFT,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Moves steps towards high noise. The reference uses 3. A ModelSamplingSD3 node in front of the model wins.",
                    advanced=True,
                ),
                WanS2VStepCacheSettings.Input(
                    "step_cache",
                    optional=True,
                    tooltip="From Step Cache (Wan S2V): guesses steps of later clips, with an error that is measured. Without it every "
                    "step asks the model.",
                ),
            ],
            outputs=[WanS2VClips.Output(display_name="clips", tooltip="The finished clips, for Save Video or Decode Clips (Wan S2V).")],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    @shows_errors
    @checks_inputs
    def execute(
        cls,
        model,
        positive,
        negative,
        vae,
        plan,
        seed,
        steps,
        cfg,
        run_name,
        if_changed=NEW_TAKE,
        redo_from_clip=0,
        continuity=AS_REFERENCE,
        audio_guidance=None,
        options=NO_OPTIONS,
        sampler=None,
        sigmas=None,
        solver="unipc",
        shift=DEFAULT_SHIFT,
        step_cache=None,
    ) -> io.NodeOutput:
        redo_from = clip_to_redo(run_name, redo_from_clip)
        plan.require_rate(VIDEO_FPS, "Sample Video (Wan S2V)")
        comfy_bridge.require_wan_vae(vae)
        require_finite(positive, negative)
        positive, negative = (place_on_clips(text, plan.timeline) for text in (positive, negative))
        plan = replace(plan, continuity=continuity)
        given = {"sampler": sampler, "sigmas": sigmas, "audio": audio_guidance, "step_cache": step_cache, **vars(options)}
        given |= {"round_state": plan.timeline.sync_mode == "official", "strength": plan.strength}
        settings = SamplerSettings(steps, cfg, shift, solver, **given)
        sample = ClipSampler(model, positive, negative, settings, seed, continuity)
        require_width(sample.config.text_dim, positive=positive, negative=negative)
        plan.require_audio(sample.config.num_audio_layers, sample.config.audio_dim)
        kept = functools.partial(_kept_inputs, model, positive, negative, plan, settings, seed, vae)
        with opened_run(cls, run_name, kept, redo_from, FIXED, if_changed) as (store, take):
            cls._run(store, plan, seed, sample, vae, take)
            clips = Clips(store, plan, delete_with_handle=not run_name, vae=vae, vae_warmup=options.vae_warmup)
        return io.NodeOutput(clips)

    @classmethod
    def _run(cls, store: RunStore, plan: Plan, seed: int, sample: ClipSampler, vae, take: str) -> None:
        """Sample the clips that the store does not have yet; `take` is said beside what is shown."""
        total = plan.timeline.num_clips
        if store.num_finished >= total:
            logger.info("all %d clips are there already", total)
            comfy_bridge.text_display()(f"{video_size(plan.timeline.num_frames, plan.timeline.fps)}, all clips were there{take}")
            return

        require_space(store, plan)
        sample.expect((plan.timeline.num_latent_frames, plan.height // SPATIAL_STRIDE, plan.width // SPATIAL_STRIDE))
        comfy_bridge.require_memory(sample, plan, store.num_finished, vae, run_bytes(plan, store.num_finished))
        comfy_bridge.take_others_off_gpu(sample.model, vae.patcher)
        if sample.cached is not None:
            sample.cached.notes = store.step_cache
        progress = Progress(total, sample.num_steps, store.num_finished, sample.work_of_steps, fps=plan.timeline.fps)
        run_vae = RunVae(vae, sample.model)
        decode = clip_decoder(run_vae.decode, plan.timeline.num_latent_frames, sample.settings.vae_warmup)
        with sample.report_to(progress, plan.timeline.num_frames, take, check=store.raise_failure) as display:
            encode = display.during("encoding", run_vae.encode)
            finish_and_show(
                store,
                plan,
                seed,
                Networks(sample, encode, display.during("decoding", decode), sample.dtype),
                show=comfy_bridge.file_shower(),
                peak_bytes=lambda: comfy_bridge.take_memory_peak(sample.model),
            )

"""Live video: seamless, of any length, in few steps and without guidance, by Live-Avatar's LoRA."""

import functools
import logging
from collections.abc import Callable, Mapping

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.conditioning.plan import Plan
from ..wan_s2v_model.conditioning.prompts import require_finite, require_width
from ..wan_s2v_model.constants import DEFAULT_SEED, SPATIAL_STRIDE
from ..wan_s2v_model.cost.live import LiveWork
from ..wan_s2v_model.limits import LARGEST_SEED
from ..wan_s2v_model.runs.changes import IF_CHANGED, NEW_TAKE, Notes
from ..wan_s2v_model.runs.clips import LiveClips
from ..wan_s2v_model.runs.fingerprint import hashes_by_clip, live_fingerprint
from ..wan_s2v_model.runs.finish import LiveNetworks, finish_live, require_space, video_in_progress
from ..wan_s2v_model.runs.live_video import LiveVideo
from ..wan_s2v_model.runs.manifest import Fingerprint
from ..wan_s2v_model.runs.store import RunStore
from ..wan_s2v_model.sampling.live import CLIP_BLOCKS, LIVE_ANCHORS, LIVE_STEPS, live_sigmas
from ..wan_s2v_model.sampling.live_clips import RESTART_CLIPS, LiveJob, require_live
from ..wan_s2v_model.sampling.progress import Progress, video_size
from ..wan_s2v_model.transformer.rings import Placement
from .inputs import KeepsRun, checks_inputs, clip_to_redo, opened_run, shows_errors
from .sockets import WanS2VClips, WanS2VPlan

logger = logging.getLogger("wan_s2v")
FULL, FLOAT8 = MEMORIES = ("full", "float8")
RESUMABLE, OFFICIAL = EXACTNESS = ("resumable", "official")
FIXED = (
    "width",
    "height",
    "frames_per_clip",
    "sync_mode",
    "clips",
    "frame_rate",
    "audio",
    "picture",
    "vae",
    "steps",
    "mode",
    "restart_clips",
)


class WanS2VLiveSampler(KeepsRun, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VLiveSampler",
            display_name="Sample Video Live (Wan S2V)",
            category="wan s2v/sampling",
            description="Samples 25 frames per second in blocks of 12 that follow each other without a border, in 4 steps and without "
            "guidance; the video plays while it is made. Needs Live-Avatar's LoRA.",
            search_aliases=["live avatar", "liveavatar", "streaming", "real time", "25 fps", "endless", "s2v"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2-S2V with Live-Avatar's LoRA from Load LoRA (Wan S2V)."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt. There is no negative one: nothing is guided."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                WanS2VPlan.Input("plan", tooltip="From Prepare Video (Wan S2V), of a sound that was encoded with frame_rate 25."),
                io.Int.Input(
                    "seed",
                    default=DEFAULT_SEED,
                    min=0,
                    max=LARGEST_SEED,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Noise of the video, and how far ahead the picture is in each step.",
                ),
                io.String.Input(
                    "run_name",
                    default="",
                    tooltip="Keeps every finished clip under output/wan_s2v_runs/<name>; queue again to continue after a crash or cancel. "
                    "Empty: nothing is kept.",
                ),
                io.Combo.Input(
                    "steps",
                    options=[str(steps) for steps in LIVE_STEPS],
                    default=str(LIVE_STEPS[0]),
                    optional=True,
                    tooltip="Steps of a block. 4: as the official code. 3: leaves out the last one, which changes next to nothing and "
                    "costs a quarter of the time and of the memory.",
                ),
                io.Combo.Input(
                    "memory",
                    options=list(MEMORIES),
                    default=FULL,
                    optional=True,
                    tooltip="What the steps remember of the last two seconds. full: in the precision of the model. float8: in half the "
                    "memory, less exact. Where it does not fit on the GPU it waits in main memory, with the same result.",
                ),
                io.Combo.Input(
                    "anchor",
                    options=list(LIVE_ANCHORS),
                    default=LIVE_ANCHORS[0],
                    optional=True,
                    tooltip="What keeps the person the same. first generated latent: the picture, and after the first two seconds what the "
                    "model has made of it. picture: the picture all the time.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "exactness",
                    options=list(EXACTNESS),
                    default=RESUMABLE,
                    optional=True,
                    tooltip="Of runs with a name. resumable: once a minute everything older than 4 seconds is forgotten, so that a run "
                    "that was cut off goes on with the same bytes within a minute. official: nothing is forgotten; to go on, all is "
                    "computed again.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "if_changed",
                    options=list(IF_CHANGED),
                    default=NEW_TAKE,
                    optional=True,
                    tooltip="Where the named run was made with other inputs. new take: a run of its own beside it. stop: nothing is made, "
                    "and a list says what has changed. redo ...: the clips are thrown away and made anew.",
                    advanced=True,
                ),
                io.Int.Input(
                    "redo_from_clip",
                    default=0,
                    min=-1,
                    max=1_000_000,
                    optional=True,
                    tooltip="Throw away this clip (the first is 1) and all later ones of the named run and sample again; 0 keeps all.",
                    advanced=True,
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
        vae,
        plan,
        seed,
        run_name,
        steps=str(LIVE_STEPS[0]),
        memory=FULL,
        anchor=LIVE_ANCHORS[0],
        exactness=RESUMABLE,
        if_changed=NEW_TAKE,
        redo_from_clip=0,
    ) -> io.NodeOutput:
        redo_from = clip_to_redo(run_name, redo_from_clip)
        comfy_bridge.require_wan_vae(vae)
        require_live(plan)
        context = _only_text(positive)
        config = comfy_bridge.live_config(model)
        require_width(config.text_dim, positive=positive)
        plan.require_audio(config.num_audio_layers, config.audio_dim)
        restart = RESTART_CLIPS if run_name and exactness == RESUMABLE else 0
        job = LiveJob(plan, seed, anchor, int(steps), restart)
        kept = functools.partial(_kept_inputs, model, positive, job, vae, memory == FLOAT8)
        with opened_run(cls, run_name, kept, redo_from, FIXED, if_changed) as (store, take):
            cls._run(store, job, model, vae, context, memory == FLOAT8, take)
            clips = LiveClips(store, job, delete_with_handle=not run_name, vae=vae, open_decoder=_decoder_opener(vae, plan))
        return io.NodeOutput(clips)

    @classmethod
    def _run(cls, store: RunStore, job: LiveJob, model, vae, context, float8: bool, take: str) -> None:
        """Make the clips that the store does not have yet; `take` is said beside what is shown."""
        plan, timeline = job.plan, job.plan.timeline
        if store.num_finished >= timeline.num_clips:
            logger.info("all %d clips are there already", timeline.num_clips)
            comfy_bridge.text_display()(f"{video_size(timeline.num_frames, timeline.fps)}, all clips were there{take}")
            return
        require_space(store, plan, job.steps - 1)
        work = LiveWork(plan.height, plan.width, job.steps, *job.blocks_ahead(store.num_finished), float8=float8)
        placement = comfy_bridge.place_rings(model, vae, work)
        comfy_bridge.take_others_off_gpu(model, vae.patcher)
        with video_in_progress(store, plan, comfy_bridge.file_shower()) as live:
            comfy_bridge.in_less_memory(model, placement, functools.partial(cls._sample, store, live, job, model, vae, context, take))

    @classmethod
    def _sample(cls, store: RunStore, live: LiveVideo, job: LiveJob, model, vae, context, take: str, placement: Placement) -> None:
        """The work of `_run`, with the rings in this place."""
        timeline, network_plan = job.plan.timeline, comfy_bridge.LivePlan(*_latent_size(job.plan), job.steps, placement)
        progress = Progress(timeline.num_clips, CLIP_BLOCKS * job.steps, store.num_finished, fps=timeline.fps)
        with (
            comfy_bridge.report_blocks(model, progress, timeline.num_frames, take, check=store.raise_failure) as on_step,
            comfy_bridge.live_team(model, vae, network_plan) as team,
        ):
            sampler = team.sampler(job.told(context), live_sigmas(job.steps), on_step)
            dtype = model.model.get_dtype_inference()
            finish_live(
                store,
                job,
                LiveNetworks(sampler, comfy_bridge.RunVae(vae).encode, _decoder_opener(vae, job.plan), dtype),
                live,
                peak_bytes=lambda: comfy_bridge.take_memory_peak(model),
            )


def _latent_size(plan: Plan) -> tuple[int, int]:
    return plan.height // SPATIAL_STRIDE, plan.width // SPATIAL_STRIDE


def _decoder_opener(vae, plan: Plan) -> Callable[[], comfy_bridge.LiveDecoder]:
    return functools.partial(comfy_bridge.LiveDecoder, vae, *_latent_size(plan))


def _only_text(positive):
    """The embedding of the one prompt, [1, L, C]."""
    require_finite(positive)
    if len(positive) != 1:
        raise ValueError(
            f"Sample Video Live (Wan S2V) takes one prompt for the whole video, and this CONDITIONING holds {len(positive)}. Use Encode "
            "Prompt (Wan S2V) instead of Prompts over Time or Conditioning (Combine)."
        )
    return positive[0][0]


def _kept_inputs(model, positive, job: LiveJob, vae, float8: bool, words: Mapping[str, str]) -> tuple[Fingerprint, Notes]:
    """What the folder of a named run is compared with; hashing it takes seconds."""
    fingerprint = live_fingerprint(model, positive, job, vae, float8_rings=float8)
    return fingerprint, Notes({}, {}, comfy_bridge.versions(model), words, hashes_by_clip(positive, [], job.plan))

"""Planning: picture, sound, pose and earlier frames become a plan of clips."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.audio.speakers import Track
from ..wan_s2v_model.conditioning.clip import start_history
from ..wan_s2v_model.conditioning.picture import AREAS, CUSTOM_SIZE, choose_size, fit_image, size_note
from ..wan_s2v_model.conditioning.plan import Plan, VideoShape, plan_video
from ..wan_s2v_model.conditioning.timeline import SYNC_MODES
from ..wan_s2v_model.constants import DEFAULT_FRAMES_PER_CLIP, DEFAULT_SEED, LIVE_FPS
from ..wan_s2v_model.cost.live import LiveWork, describe_live_plan, describe_live_shape
from ..wan_s2v_model.cost.outlook import REFERENCE
from ..wan_s2v_model.cost.requirements import describe_plan, describe_shape
from ..wan_s2v_model.limits import FRAMES_PER_CLIP, SIDES_PX
from ..wan_s2v_model.media.audio_input import Sound
from ..wan_s2v_model.media.pictures import read_optional_pictures, read_pictures
from ..wan_s2v_model.reports.plan_picture import Voice, draw_plan
from ..wan_s2v_model.runs.identity import note_pictures
from ..wan_s2v_model.sampling.live import LIVE_STEPS
from ..wan_s2v_model.sampling.live_clips import RESTART_CLIPS, LiveJob
from ..wan_s2v_model.sampling.pipeline import deal_steps, describe_steps
from .inputs import checks_inputs, choice_problem, shows_errors
from .sockets import WanS2VAudio, WanS2VDubSettings, WanS2VPlan, WanS2VPoseSettings

FIRST_FRAME = ("free", "from picture")
AUDIO_HISTORY = ("first frame", "real")


class WanS2VPrepare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VPrepare",
            display_name="Prepare Video (Wan S2V)",
            category="wan s2v/conditioning",
            description="Plans the clips: size, number, sound and pose of each. Samples nothing; look at the preview first.",
            search_aliases=["plan", "talking", "lip sync", "s2v"],
            inputs=[
                WanS2VAudio.Input("encoded_audio", tooltip="From Encode Audio (Wan S2V). Its length decides the length of the video."),
                io.Image.Input("image", tooltip="The person or figure that talks or sings; the first picture of a batch is used."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                io.DynamicCombo.Input(
                    "size",
                    options=[
                        *(io.DynamicCombo.Option(area, []) for area in AREAS),
                        io.DynamicCombo.Option(CUSTOM_SIZE, [_side("width", 832), _side("height", 480)]),
                    ],
                    tooltip="Area of the video; the picture decides its aspect (sides: multiples of 64) and is not enlarged. "
                    "custom: a width and a height of your own.",
                ),
                io.Int.Input(
                    "frames_per_clip",
                    default=DEFAULT_FRAMES_PER_CLIP,
                    min=FRAMES_PER_CLIP.lowest,
                    max=FRAMES_PER_CLIP.highest,
                    step=FRAMES_PER_CLIP.step,
                    tooltip="Frames sampled at once, a multiple of 4. The model was trained with 80; fewer need less memory. "
                    "A sound of 25 frames per second always gets clips of 48.",
                ),
                io.Int.Input(
                    "max_clips", default=0, min=0, max=100_000, tooltip="Stop after this many clips; 0 means as many as the sound needs."
                ),
                io.Image.Input(
                    "previous_frames",
                    optional=True,
                    tooltip="Frames at 16 fps to continue from; the last 73 are used. They are not repeated in the video.",
                ),
                WanS2VPoseSettings.Input("pose", optional=True, tooltip="From Pose (Wan S2V): gestures of a pose video."),
                io.Combo.Input(
                    "first_frame",
                    optional=True,
                    options=list(FIRST_FRAME),
                    default=FIRST_FRAME[0],
                    tooltip="free: the model chooses the first pose. from picture: the video starts from the picture itself.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "sync_mode",
                    optional=True,
                    options=list(SYNC_MODES),
                    default="aligned",
                    tooltip="aligned: picture and sound together, exact length, no black bars, pose at its own speed. "
                    "official: as the reference, whose picture leads the sound by 3 frames.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "audio_history",
                    optional=True,
                    options=list(AUDIO_HISTORY),
                    default=AUDIO_HISTORY[0],
                    tooltip="What the model hears of the 73 frames before a clip. first frame: the first frame of the clip over and over, "
                    "as in the reference. real: the sound that was there, which changes the first half second of each later clip.",
                    advanced=True,
                ),
                WanS2VDubSettings.Input(
                    "dub", optional=True, tooltip="From Dub Video (Wan S2V): a video that is given the sound, and what of it may change."
                ),
            ],
            outputs=[
                WanS2VPlan.Output(display_name="plan", tooltip="For the Wan S2V sampler."),
                io.Int.Output(display_name="width", tooltip="Width of the video in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the video in pixels."),
                io.Int.Output(display_name="frames", tooltip="Frames of the video."),
                io.Int.Output(display_name="clips", tooltip="Clips to be sampled."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The fitted picture, the sound with the clip borders, and the work to do: time, GPU memory, RAM.",
                ),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, frames_per_clip, *, size=None) -> bool | str:
        """ComfyUI gives the `size` only where its choice is one of ours, and then without its values."""
        if size is None:
            return choice_problem("size", (*AREAS, CUSTOM_SIZE), None)
        return FRAMES_PER_CLIP.problem("frames_per_clip", frames_per_clip) or True

    @classmethod
    @shows_errors
    @checks_inputs
    def execute(
        cls,
        encoded_audio,
        image,
        vae,
        frames_per_clip,
        max_clips,
        size=None,
        previous_frames=None,
        pose=None,
        first_frame=FIRST_FRAME[0],
        sync_mode="aligned",
        audio_history=AUDIO_HISTORY[0],
        dub=None,
    ) -> io.NodeOutput:
        comfy_bridge.require_wan_vae(vae)
        image, previous_frames = read_pictures("image", image), read_optional_pictures("previous_frames", previous_frames)
        height, width = _chosen_size(image, **size)
        if dub is not None:
            dub.require_video(encoded_audio.fps, sync_mode, height, width)  # before the pose is encoded, which takes minutes
        shape = VideoShape(height, width, frames_per_clip, max_clips, sync_mode, picture=tuple(image.shape[1:3]))
        picture = fit_image(image[0], height, width, cover=shape.covers)
        history = start_history(picture, previous_frames, from_picture=first_frame == "from picture", cover=shape.covers)
        encode = comfy_bridge.RunVae(vae).encode
        with nullcontext() if pose is None else pose.opened() as guide:
            options = {"real_audio_history": audio_history == "real", "folder": Path(folder_paths.get_temp_directory())}
            plan = plan_video(encoded_audio, shape, picture, history, guide, encode=encode, **options)
        plan = plan if dub is None else plan.with_dub(dub)
        note_pictures(plan, vae, image[0], previous_frames, first_frame)
        timeline = plan.timeline
        place = comfy_bridge.place_in_list()
        gpus = comfy_bridge.gpus_ahead(cls.hidden.prompt, place.node_id) if place else comfy_bridge.ONE_GPU
        lines, shape_note = _outlook(plan, vae, gpus)
        preview = draw_plan(
            plan.waveform,
            plan.sample_rate_hz,
            image=picture if plan.dub is None else plan.dub.marked(picture),
            clip_starts_s=timeline.clip_starts_s,
            seconds=timeline.seconds,
            lines=lines,
            voices=_voices(plan),
        )
        notes = shape_note, size_note(image=image, size=size["size"]), *(plan.dub.notes() if plan.dub else ())
        comfy_bridge.text_display()("\n".join(filter(None, notes)))
        return io.NodeOutput(plan, width, height, timeline.num_frames, timeline.num_clips, preview)


def _outlook(plan: Plan, vae, gpus: comfy_bridge.GpusAhead) -> tuple[list[str], str]:
    """What a plan costs, with a model that is not known yet: lines for its picture, and a short text."""
    if plan.timeline.fps == LIVE_FPS:
        return _live_outlook(plan, vae, gpus.number)
    one_gpu = REFERENCE.job(plan.timeline, plan.height, plan.width, comfy_bridge.vae_value_bytes(vae))
    job, facts = REFERENCE.of(replace(one_gpu, works=gpus.works)), comfy_bridge.assumed_facts(vae, gpus.number)
    return describe_plan(job, *facts, gpus.words), describe_shape(job, *facts)


def _live_outlook(plan: Plan, vae, num_gpus: int) -> tuple[list[str], str]:
    """The same for live video, in the default number of steps and with a name, whose run restarts now and then."""
    blocks, dealt = LiveJob(plan, DEFAULT_SEED, restart_clips=RESTART_CLIPS).blocks_ahead(), deal_steps(LIVE_STEPS[0], num_gpus)
    rest = {"vae_value_bytes": comfy_bridge.vae_value_bytes(vae), "dealt": tuple(map(len, dealt))}
    work = LiveWork(plan.height, plan.width, LIVE_STEPS[0], *blocks, **rest)
    facts, gpus = comfy_bridge.assumed_facts(vae, len(dealt)), describe_steps(dealt, num_gpus)
    return describe_live_plan(plan.timeline, work, *facts, gpus), describe_live_shape(plan.timeline, work, *facts)


def _voices(plan: Plan) -> list[Voice]:
    """Several speakers of a plan, for its picture."""
    if plan.speakers is None or plan.regions is None:
        return []
    tracks, listener = plan.speakers.tracks(), Track(Sound(torch.empty(1, 0), 1), 0.0)
    shares = zip(plan.speakers.speakers, plan.regions.shares[:, 0], strict=False)  # the last one is of nobody
    heard = ((speaker.number, share, tracks.get(speaker.number, listener)) for speaker, share in shares)
    return [Voice(number, share, *track.sound, track.start_s) for number, share, track in heard]


def _side(name: str, default: int) -> io.Int.Input:
    tooltip = "Pixels, a multiple of 16. Multiples of 64 keep all of the far motion history."
    return io.Int.Input(name, default=default, min=SIDES_PX.lowest, max=SIDES_PX.highest, step=SIDES_PX.step, tooltip=tooltip)


def _chosen_size(image, size: str, width: int = 0, height: int = 0) -> tuple[int, int]:
    """(height, width) in pixels."""
    if problem := size == CUSTOM_SIZE and (SIDES_PX.problem("width", width) or SIDES_PX.problem("height", height)):
        raise ValueError(problem)
    return choose_size(size, image, height, width)

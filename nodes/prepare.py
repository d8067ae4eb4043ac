"""Planning: picture, sound, pose and earlier frames become a plan of clips."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.conditioning.clip import start_history
from ..wan_s2v_model.conditioning.picture import AREAS, CUSTOM_SIZE, choose_size, fit_image
from ..wan_s2v_model.conditioning.plan import VideoShape, plan_video
from ..wan_s2v_model.conditioning.pose import POSE_ENDS, PoseGuide
from ..wan_s2v_model.conditioning.timeline import SYNC_MODES
from ..wan_s2v_model.constants import DEFAULT_FRAMES_PER_CLIP, VIDEO_FPS
from ..wan_s2v_model.cost.estimate import default_job
from ..wan_s2v_model.cost.requirements import describe_plan
from ..wan_s2v_model.limits import FRAMES_PER_CLIP, SIDES_PX, share_problem
from ..wan_s2v_model.media.pictures import read_optional_pictures, read_pictures
from ..wan_s2v_model.reports.plan_picture import draw_plan
from .inputs import checks_inputs
from .sockets import WanS2VAudio, WanS2VPlan

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
                WanS2VAudio.Input("audio", tooltip="From Encode Audio (Wan S2V). Its length decides the length of the video."),
                io.Image.Input("image", tooltip="The person or figure that talks or sings; the first picture of a batch is used."),
                io.Vae.Input("vae", tooltip="The Wan2.1 VAE."),
                io.Combo.Input(
                    "size",
                    options=[*AREAS, CUSTOM_SIZE],
                    default="480P",
                    tooltip="Area of the video; the picture decides its aspect (sides: multiples of 64). custom: width and height below.",
                ),
                io.Int.Input(
                    "width",
                    default=832,
                    min=SIDES_PX.lowest,
                    max=SIDES_PX.highest,
                    step=SIDES_PX.step,
                    tooltip="Pixels, a multiple of 16; only used with size custom. Multiples of 64 keep all of the far motion history.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=SIDES_PX.lowest,
                    max=SIDES_PX.highest,
                    step=SIDES_PX.step,
                    tooltip="Pixels, a multiple of 16; only used with size custom. Multiples of 64 keep all of the far motion history.",
                ),
                io.Int.Input(
                    "frames_per_clip",
                    default=DEFAULT_FRAMES_PER_CLIP,
                    min=FRAMES_PER_CLIP.lowest,
                    max=FRAMES_PER_CLIP.highest,
                    step=FRAMES_PER_CLIP.step,
                    tooltip="Frames (1/16 s) sampled at once, a multiple of 4. The model was trained with 80; fewer need less memory.",
                ),
                io.Int.Input(
                    "max_clips", default=0, min=0, max=100_000, tooltip="Stop after this many clips; 0 means as many as the sound needs."
                ),
                io.Combo.Input(
                    "sync_mode",
                    options=list(SYNC_MODES),
                    default="aligned",
                    tooltip="aligned: picture and sound together, exact length, no black bars, pose at its own speed. "
                    "official: as the reference, whose picture leads the sound by 3 frames.",
                ),
                io.Combo.Input(
                    "first_frame",
                    options=list(FIRST_FRAME),
                    default="free",
                    tooltip="free: the model chooses the first pose. from picture: the video starts from the picture itself.",
                ),
                io.Image.Input("pose", optional=True, tooltip="Pose video (for example DWPose), as frames; its rate is pose_fps."),
                io.Float.Input(
                    "pose_fps", default=float(VIDEO_FPS), min=1.0, max=240.0, step=0.001, tooltip="Frame rate of the frames in pose."
                ),
                io.Image.Input(
                    "previous_frames",
                    optional=True,
                    tooltip="Frames at 16 fps to continue from; the last 73 are used. They are not repeated in the video.",
                ),
                io.Video.Input(
                    "pose_video",
                    optional=True,
                    tooltip="Pose video as a VIDEO, instead of pose: brings its own frame rate and is read clip by clip.",
                ),
                io.Float.Input(
                    "pose_strength",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much the pose counts: 1 as the reference, 0 as without a pose.",
                    advanced=True,
                ),
                io.Float.Input(
                    "pose_start_percent",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The pose is used from this share of the steps on; 0 is the first step, as in the reference.",
                    advanced=True,
                ),
                io.Float.Input(
                    "pose_end_percent",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The pose is used up to this share of the steps; 1 is the last step, as in the reference. "
                    "Early steps decide the posture, late ones details.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "pose_end",
                    optional=True,
                    options=list(POSE_ENDS),
                    default="hold",
                    tooltip="Where the pose video is shorter than the sound. hold: its last picture stays. loop: it starts again. "
                    "release: no pose from there. sync_mode official shows black instead, as the reference.",
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
            ],
            outputs=[
                WanS2VPlan.Output(display_name="plan", tooltip="For the Wan S2V sampler."),
                io.Int.Output(display_name="width", tooltip="Width of the video in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the video in pixels."),
                io.Int.Output(display_name="frames", tooltip="Frames of the video at 16 fps."),
                io.Int.Output(display_name="clips", tooltip="Clips to be sampled."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The fitted picture, the sound with the clip borders, and the work to do: time, GPU memory, RAM.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, width, height, frames_per_clip, pose_start_percent=0.0, pose_end_percent=1.0) -> bool | str:
        advice = "To sample without the pose set pose_strength to 0."
        problems = (
            SIDES_PX.problem("width", width),
            SIDES_PX.problem("height", height),
            FRAMES_PER_CLIP.problem("frames_per_clip", frames_per_clip),
            share_problem("The pose", "pose_", pose_start_percent, pose_end_percent, advice),
        )
        return next(filter(None, problems), True)

    @classmethod
    @checks_inputs
    def execute(
        cls,
        audio,
        image,
        vae,
        size,
        width,
        height,
        frames_per_clip,
        max_clips,
        sync_mode,
        first_frame,
        pose_fps,
        pose=None,
        previous_frames=None,
        pose_video=None,
        pose_strength=1.0,
        pose_start_percent=0.0,
        pose_end_percent=1.0,
        pose_end="hold",
        audio_history=AUDIO_HISTORY[0],
    ) -> io.NodeOutput:
        comfy_bridge.require_wan_vae(vae)
        image, previous_frames = read_pictures("image", image), read_optional_pictures("previous_frames", previous_frames)
        height, width = choose_size(size, image, height, width)
        shape = VideoShape(height, width, frames_per_clip, max_clips, sync_mode)
        picture = fit_image(image[0], height, width, cover=shape.covers)
        history = start_history(picture, previous_frames, from_picture=first_frame == "from picture", cover=shape.covers)
        encode = comfy_bridge.RunVae(vae).encode
        with comfy_bridge.open_pose(pose, pose_fps, pose_video) as video:
            guide = None if video is None else PoseGuide(video, pose_strength, (pose_start_percent, pose_end_percent), pose_end)
            options = {"real_audio_history": audio_history == "real", "folder": Path(folder_paths.get_temp_directory())}
            plan = plan_video(audio, shape, picture, history, guide, encode=encode, **options)
        timeline = plan.timeline
        job = default_job(timeline, height, width, comfy_bridge.vae_value_bytes(vae))
        preview = draw_plan(
            plan.waveform,
            plan.sample_rate_hz,
            image=picture,
            clip_starts_s=timeline.clip_starts_s,
            seconds=timeline.seconds,
            lines=describe_plan(job, *comfy_bridge.assumed_facts(vae)),
        )
        return io.NodeOutput(plan, width, height, timeline.num_frames, timeline.num_clips, preview)

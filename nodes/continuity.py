"""How clips and runs follow each other: anchor and seeds, and the last frames of a video to go on from."""

import logging

from comfy_api.latest import InputImpl, io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.anchors import ANCHORS, SEED_POLICIES, Continuity
from ..wan_s2v_model.constants import MOTION_FRAMES, VIDEO_FPS
from ..wan_s2v_model.run_store import MANIFEST_NAME, RunStore
from ..wan_s2v_model.tail import tail_of_clips, tail_of_file, tail_of_images, tail_of_run
from .linked_inputs import checks_inputs
from .run_names import run_folder, run_name_problem
from .sockets import WanS2VClips, WanS2VContinuitySettings

logger = logging.getLogger("wan_s2v")

MAX_FRAMES = 1000


class WanS2VContinuity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VContinuity",
            display_name="Continuity (Wan S2V)",
            category="wan s2v/sampling",
            description="Keeps colour and contrast of a long video from drifting, and chooses the seeds of its clips.",
            search_aliases=["drift", "colour match", "color match", "anchor", "s2v"],
            inputs=[
                io.Combo.Input(
                    "anchor",
                    options=list(ANCHORS),
                    default=ANCHORS[0],
                    tooltip="What the end of each clip is led back to. off: nothing, as the reference. latent statistics: mean and spread "
                    "of each latent channel at the end of the first clip. colour transfer: those of red, green and blue in the picture.",
                ),
                io.Float.Input(
                    "anchor_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the drift of a clip is taken back: 1 all of it, 0 nothing. Not used when anchor is off.",
                ),
                io.Combo.Input(
                    "seed_policy",
                    options=list(SEED_POLICIES),
                    default=SEED_POLICIES[0],
                    tooltip="seed + clip: every clip has noise of its own, as in the reference. same seed: all have that of the first, "
                    "which can repeat its gestures.",
                ),
            ],
            outputs=[WanS2VContinuitySettings.Output(display_name="continuity", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    @checks_inputs
    def execute(cls, anchor, anchor_strength, seed_policy) -> io.NodeOutput:
        return io.NodeOutput(Continuity(anchor, anchor_strength, seed_policy))


class WanS2VTail(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VTail",
            display_name="Last Frames (Wan S2V)",
            category="wan s2v/video",
            description="The end of a video at 16 fps, to continue from in Prepare Video or to hand on to other nodes. "
            "Give it clips, the name of a run, or a video.",
            search_aliases=["continue", "extend", "previous frames", "last frame", "s2v"],
            inputs=[
                WanS2VClips.Input(
                    "clips", optional=True, tooltip="From the Wan S2V sampler; the frames are decoded again, as exact floats."
                ),
                io.String.Input(
                    "run_name",
                    optional=True,
                    default="",
                    tooltip="A run of the Wan S2V sampler, finished or not; its newest clips are read, with 8 bits per colour.",
                ),
                io.Video.Input(
                    "video", optional=True, tooltip="A VIDEO of any frame rate; taken at 16 fps by time. Of a file only the end is decoded."
                ),
                io.Int.Input(
                    "frames",
                    default=MOTION_FRAMES,
                    min=1,
                    max=MAX_FRAMES,
                    tooltip="How many frames, fewer if there are not so many. The model sees the last 73 when it continues.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The last frames, oldest first, for previous_frames in Prepare Video.")
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name="") -> bool | str:
        return run_name_problem(run_name) or True

    @classmethod
    def fingerprint_inputs(cls, run_name="", **_):
        """A run grows while the name stays; a linked name is not known yet."""
        if run_name is None:
            return float("nan")
        if not run_name or run_name_problem(run_name):
            return ""
        manifest = run_folder(run_name) / MANIFEST_NAME
        return manifest.stat().st_mtime_ns if manifest.is_file() else ""

    @classmethod
    @checks_inputs
    def execute(cls, frames, clips=None, run_name="", video=None) -> io.NodeOutput:
        given = [name for name, value in (("clips", clips), ("run_name", run_name or None), ("video", video)) if value is not None]
        if len(given) != 1:
            raise ValueError(f"Give Last Frames exactly one of clips, run_name or video; given: {', '.join(given) or 'none'}.")
        if clips is not None:
            run_vae = comfy_bridge.RunVae(clips.vae)
            images = tail_of_clips(clips, frames, run_vae.encode, run_vae.decode)
        elif video is not None:
            images = _tail_of_video(video, frames)
        else:
            images = tail_of_run(RunStore.reading(run_folder(run_name)), frames)
        if len(images) < frames:
            logger.info("the video has only %d frames at %d fps, not %d", len(images), VIDEO_FPS, frames)
        return io.NodeOutput(images)


def _tail_of_video(video, frames: int):
    if isinstance(video, InputImpl.VideoFromFile):
        return tail_of_file(video.get_stream_source(), *video.get_active_trim_window(), frames)
    parts = video.get_components()
    return tail_of_images(parts.images, parts.frame_rate, frames)

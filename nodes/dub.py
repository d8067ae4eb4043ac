"""A finished video that is given another sound."""

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.conditioning.dub import DUB_ENDS, DUB_PARTS, checked_dub
from ..wan_s2v_model.constants import VIDEO_FPS
from ..wan_s2v_model.media.pictures import read_masks, read_optional_pictures
from .inputs import checks_inputs
from .sockets import WanS2VDubSettings


class WanS2VDub(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VDub",
            display_name="Dub Video (Wan S2V)",
            category="wan s2v/conditioning",
            description="Gives a finished video another voice: only what is masked is made anew, all else stays the video's own.",
            search_aliases=["dubbing", "lip sync video", "video to video", "v2v", "inpaint", "translate", "s2v"],
            inputs=[
                io.Video.Input(
                    "source_video", optional=True, tooltip="The video to dub, at its own size and frame rate; read clip by clip."
                ),
                io.Image.Input("source_images", optional=True, tooltip="The video as frames, instead of source_video; their rate is fps."),
                io.Mask.Input(
                    "source_mask",
                    optional=True,
                    tooltip="What may change, in white: the mouth, the chin and some room for both. One mask in the size of the video, or "
                    "one for each picture. Without it all may change, and strength has to be below 1.",
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=512,
                    tooltip="Width of the soft edge in pixels of the video. It lies inside of the mask: outside no pixel changes.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="1: what is masked is made from noise. Less begins from the source there, too, and keeps more of it; the mouth "
                    "then follows the new sound less.",
                ),
                io.Combo.Input(
                    "at_end",
                    options=list(DUB_ENDS),
                    default=DUB_ENDS[0],
                    tooltip="Where the sound is longer than the video. hold: its last picture stays. loop: its last seconds go back and "
                    "forth. A shorter sound ends the video.",
                ),
                io.Combo.Input(
                    "work_on",
                    options=list(DUB_PARTS),
                    default=DUB_PARTS[0],
                    tooltip="What the model is shown. whole picture: all of it, scaled to the size of Prepare Video. around the mask: a "
                    "square of three times the mask, which keeps a small face sharp.",
                ),
                io.Float.Input(
                    "reference_at",
                    default=0.0,
                    min=0.0,
                    max=100_000.0,
                    step=0.1,
                    tooltip="Second of the video whose picture becomes image: one with a clear face and open eyes.",
                    advanced=True,
                ),
                io.Float.Input(
                    "loop_seconds",
                    default=2.0,
                    min=0.1,
                    max=60.0,
                    step=0.1,
                    tooltip="Length of the last part that goes back and forth with at_end loop.",
                    advanced=True,
                ),
                io.Float.Input(
                    "fps",
                    default=float(VIDEO_FPS),
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frame rate of source_images; a video brings its own.",
                    advanced=True,
                ),
            ],
            outputs=[
                WanS2VDubSettings.Output(display_name="dub", tooltip="For Prepare Video (Wan S2V)."),
                io.Image.Output(display_name="image", tooltip="A picture of the video, for image of Prepare Video (Wan S2V)."),
            ],
        )

    @classmethod
    @checks_inputs
    def execute(
        cls,
        feather,
        strength,
        at_end,
        work_on,
        reference_at,
        loop_seconds,
        fps,
        source_video=None,
        source_images=None,
        source_mask=None,
    ) -> io.NodeOutput:
        if (source_video is None) == (source_images is None):
            connected = "none" if source_video is None else "both"
            raise ValueError(f"Connect either source_video or source_images to Dub Video (Wan S2V); connected: {connected}.")
        source = comfy_bridge.source_video(read_optional_pictures("source_images", source_images), fps, source_video)
        options = {"feather_px": feather, "strength": strength, "end": at_end, "loop_s": loop_seconds}
        mask = None if source_mask is None else read_masks("source_mask", source_mask)
        dub = checked_dub(source, mask, work_on, **options)
        return io.NodeOutput(dub, dub.reference(reference_at))

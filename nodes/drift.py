"""What a long video looks like from clip to clip."""

from collections.abc import Iterator

import torch
from comfy_api.latest import io, ui

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.clips import Clips
from ..wan_s2v_model.drift import describe_drift, measure_clips
from ..wan_s2v_model.drift_plot import draw_drift
from .sockets import WanS2VClips


class WanS2VDriftReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VDriftReport",
            display_name="Drift Report (Wan S2V)",
            category="wan s2v/video",
            description="Measures every clip of a video: brightness, contrast and colour, sharpness, and the jump at its beginning. "
            "Shows whether a long video drifts, and what an anchor of Continuity does about it.",
            search_aliases=["drift", "colour", "color", "sharpness", "s2v"],
            inputs=[WanS2VClips.Input("clips", tooltip="From the Wan S2V sampler; read clip by clip, with 8 bits per colour.")],
            outputs=[
                io.String.Output(display_name="report", tooltip="A table with a row for each clip, and what it comes to."),
                io.Image.Output(display_name="plot", tooltip="The figures over the clips, as a picture."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clips) -> io.NodeOutput:
        figures = measure_clips(_interruptible(clips))
        report, plot = describe_drift(figures), draw_drift(figures)
        return io.NodeOutput(report, plot, ui={**ui.PreviewImage(plot).as_dict(), **ui.PreviewText(report).as_dict()})


def _interruptible(clips: Clips) -> Iterator[torch.Tensor]:
    for frames in clips.frames():
        comfy_bridge.raise_if_interrupted()
        yield frames

"""Another frame rate for the same duration, beside interpolation nodes."""

import logging

import torch
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.frame_rate import convert
from .linked_inputs import checks_inputs

logger = logging.getLogger("wan_s2v")

RATES = ("16", "24", "25", "30", "48", "50", "60")
MEMORY_SHARE = 0.8  # of the free memory that one IMAGE may take


class WanS2VFrameRate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VFrameRate",
            display_name="Change Frame Rate (Wan S2V)",
            category="wan s2v/video",
            description="Brings frames to another rate without changing how long they last, so the sound stays in sync. "
            "It picks frames by time and makes no new ones: interpolate first (RIFE, FILM) for smooth motion.",
            search_aliases=["fps", "interpolation", "rife", "film", "24 fps", "resample"],
            inputs=[
                io.Image.Input("images", tooltip="From Decode Clips (Wan S2V), or from an interpolation node behind it."),
                io.Float.Input(
                    "source_fps",
                    default=16.0,
                    min=1.0,
                    max=1000.0,
                    step=0.001,
                    tooltip="Frame rate of images: 16 from Decode Clips, 32 behind an interpolation x2, 48 behind x3, and so on.",
                ),
                io.Combo.Input(
                    "target_fps",
                    options=list(RATES),
                    default="24",
                    tooltip="Frame rate to make. From 48 come 24 and 16 in even steps; from 16 to 24 every second frame is shown twice.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames at target_fps."),
                io.Float.Output(display_name="fps", tooltip="target_fps, for Save Video."),
                io.String.Output(display_name="report", tooltip="How many frames were repeated or left out."),
            ],
        )

    @classmethod
    @checks_inputs
    def execute(cls, images, source_fps, target_fps) -> io.NodeOutput:
        if images.ndim != 4 or images.numel() == 0:
            raise ValueError(f"images must hold at least one picture, got shape {tuple(images.shape)}.")
        conversion = convert(images.shape[0], source_fps, float(target_fps))
        report = conversion.describe()
        logger.log(logging.WARNING if conversion.num_repeated else logging.INFO, "%s", report)
        if conversion.pictures != list(range(images.shape[0])):
            _require_memory(images, len(conversion.pictures))
            images = images[conversion.pictures]
        return io.NodeOutput(images, float(target_fps), report)


def _require_memory(images: torch.Tensor, count: int) -> None:
    needed, free = count * images[0].nbytes, comfy_bridge.free_host_memory()
    if needed > MEMORY_SHARE * free:
        raise MemoryError(
            f"{count} frames of {images.shape[2]}x{images.shape[1]} need {needed / 1e9:.1f} GB as IMAGE, "
            f"but only {free / 1e9:.1f} GB of memory are free. Choose a lower target_fps, or work on the video in parts."
        )

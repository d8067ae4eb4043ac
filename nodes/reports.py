"""Checking a finished video."""

import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.reports.drift import describe_drift, measure_clips
from ..wan_s2v_model.reports.drift_plot import draw_drift
from ..wan_s2v_model.reports.sync import measure_sync, sync_text
from ..wan_s2v_model.reports.sync_plot import draw_sync
from ..wan_s2v_model.runs.clips import Clips
from .inputs import checks_inputs
from .sockets import WanS2VClips

logger = logging.getLogger("wan_s2v")


class WanS2VSyncReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VSyncReport",
            display_name="Sync Report (Wan S2V)",
            category="wan s2v/video",
            description="Reads a finished video file and says whether picture and sound are in sync: timestamps, lengths, and how far what "
            "moves with the sound is ahead of it. Uses no model and no GPU.",
            search_aliases=["lip sync", "audio delay", "av offset", "s2v"],
            inputs=[
                io.Video.Input("video", optional=True, tooltip="A VIDEO, best of a file: from Save Video (Wan S2V) or Load Video."),
                io.String.Input(
                    "path",
                    optional=True,
                    default="",
                    tooltip="A video file in ComfyUI's output, input or temp folder, in place of video. A relative path starts in output.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The figures, what they mean, and what they cannot tell."),
                io.Image.Output(display_name="plot", tooltip="Correlation of picture and sound at every offset, with the figures."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, video=None, path="", **_) -> str | float:
        """A file that was written again is read again; a linked path is not known yet."""
        if path is None:
            return float("nan")
        file = comfy_bridge.find_file(path) if isinstance(path, str) and path else None
        return "" if file is None else f"{file.stat().st_mtime_ns} {file.stat().st_size}"

    @classmethod
    @checks_inputs
    def execute(cls, video=None, path="") -> io.NodeOutput:
        if (video is None) == (not path):
            raise ValueError(f"Give either video or path; got {'neither' if video is None else 'both'}.")
        source = _source(video) if video is not None else comfy_bridge.require_file(path)
        name = source.name if isinstance(source, Path) else "a VIDEO without a file: the timestamps are those of ComfyUI's own encoding"
        measurement = measure_sync(source, comfy_bridge.share_reporter())
        report, plot = sync_text(name, measurement), draw_sync(measurement)
        return io.NodeOutput(report, plot, ui={**ui.PreviewImage(plot).as_dict(), **ui.PreviewText(report).as_dict()})


def _source(video) -> Path | BytesIO:
    if any(video.get_active_trim_window()):
        logger.warning("the VIDEO is a part of its file; the sync report reads the whole file")
    source = video.get_stream_source()
    return source if isinstance(source, BytesIO) else Path(source)


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
    @checks_inputs
    def execute(cls, clips) -> io.NodeOutput:
        figures = measure_clips(_interruptible(clips))
        report, plot = describe_drift(figures, clips.fps), draw_drift(figures)
        return io.NodeOutput(report, plot, ui={**ui.PreviewImage(plot).as_dict(), **ui.PreviewText(report).as_dict()})


def _interruptible(clips: Clips) -> Iterator[torch.Tensor]:
    for frames in clips.frames():
        comfy_bridge.raise_if_interrupted()
        yield frames

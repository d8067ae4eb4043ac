"""Frames and sound out: as IMAGE and AUDIO, or as a video file."""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io, ui

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.constants import MOTION_FRAMES, VIDEO_FPS
from ..wan_s2v_model.cost.requirements import require_image_memory
from ..wan_s2v_model.files import write_problem
from ..wan_s2v_model.media.audio_input import read_audio
from ..wan_s2v_model.media.file_names import prefix_problem
from ..wan_s2v_model.media.frame_rate import convert, rate_by_sound
from ..wan_s2v_model.media.pictures import read_pictures
from ..wan_s2v_model.media.video_formats import FORMATS, VideoFormat
from ..wan_s2v_model.media.video_reader import VideoReader
from ..wan_s2v_model.media.video_source import MOST_APART_S, VideoSource, source_of_images, sync_problem
from ..wan_s2v_model.media.video_writer import write_video
from ..wan_s2v_model.runs.clips import Clips
from ..wan_s2v_model.runs.manifest import MANIFEST_NAME
from ..wan_s2v_model.runs.store import RunStore
from ..wan_s2v_model.runs.tail import tail_of_clips, tail_of_file, tail_of_images, tail_of_run
from ..wan_s2v_model.untrusted import cut
from .inputs import UNCONNECTED, checks_inputs, run_folder, run_name_problem, shows_errors
from .sockets import WanS2VClips

logger = logging.getLogger("wan_s2v")
WARN, STOP = IF_OUT_OF_SYNC = ("warn", "stop")
RATES = ("16", "24", "25", "30", "48", "50", "60")
MAX_FRAMES = 1000
LEAST_FPS = 1.0


class WanS2VDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VDecode",
            display_name="Decode Clips (Wan S2V)",
            category="wan s2v/video",
            description="All frames of the video as one IMAGE batch, for upscaling, interpolation and other nodes. "
            "Long videos belong in Save Video.",
            search_aliases=["frames", "s2v"],
            inputs=[
                WanS2VClips.Input("clips", tooltip="From the Wan S2V sampler."),
                io.Boolean.Input(
                    "exact",
                    optional=True,
                    default=True,
                    tooltip="Decode the kept latents again, for the very floats that the VAE gave; each clip costs one decode on the GPU. "
                    "Off: read the frames as they are saved, with 8 bits per colour, without the VAE.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames: as the VAE gave them, or with 8 bits per colour."),
                io.Audio.Output(display_name="audio", tooltip="The sound, cut to the duration of the frames."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, 16 or 25."),
            ],
        )

    @classmethod
    @checks_inputs
    def execute(cls, clips, exact=True) -> io.NodeOutput:
        shape = clips.num_frames, clips.height, clips.width, 3
        require_image_memory(
            shape, comfy_bridge.free_host_memory(), "Connect the clips to Save Video (Wan S2V), which writes them one by one."
        )
        images = torch.empty(shape)
        start = 0
        for frames in _exact_frames(clips) if exact else clips.frames():
            comfy_bridge.raise_if_interrupted()
            images[start : start + len(frames)] = frames if exact else frames.float() / 255
            start += len(frames)
        audio = {"waveform": clips.waveform[None].clone(), "sample_rate": clips.sample_rate_hz}
        return io.NodeOutput(images, audio, float(clips.fps))


class WanS2VSaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VSaveVideo",
            display_name="Save Video (Wan S2V)",
            category="wan s2v/video",
            description="Writes a video file with its sound and the workflow inside. Connect clips, a video, or images with audio.",
            search_aliases=["mp4", "export", "s2v"],
            inputs=[
                io.String.Input(
                    "filename_prefix",
                    default="video/wan_s2v",
                    tooltip="Folder and beginning of the file name under ComfyUI's output folder. %date:yyyy-MM-dd%, %Node.widget%, "
                    "%width%, %height% and %year% to %second% become their values.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=next(iter(FORMATS)),
                    tooltip="Container and codec. mp4 (h264) plays everywhere, ffv1 keeps every bit.",
                ),
                io.Int.Input(
                    "quality",
                    default=18,
                    min=0,
                    max=51,
                    tooltip="Constant rate factor: lower is better and larger. 18 looks lossless, 23 is smaller. Without effect on ffv1; "
                    "h264 takes 0 as 1.",
                ),
                WanS2VClips.Input("clips", optional=True, tooltip="From the Wan S2V sampler; written clip by clip with little memory."),
                io.Video.Input("video", optional=True, tooltip="A VIDEO of any node."),
                io.Image.Input("images", optional=True, tooltip="Frames of any node, at fps."),
                io.Audio.Input("audio", optional=True, tooltip="Sound for images; cut to their duration."),
                io.Float.Input(
                    "fps",
                    default=float(VIDEO_FPS),
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frame rate of images; clips and video bring their own.",
                ),
                io.Combo.Input(
                    "if_out_of_sync",
                    optional=True,
                    options=list(IF_OUT_OF_SYNC),
                    default=WARN,
                    tooltip="What happens where images and audio do not last equally long. warn: the node says so, and writes the file. "
                    "stop: nothing is written.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The saved file."),
                io.String.Output(display_name="path", tooltip="Where the file is."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix) -> bool | str:
        problem = write_problem(Path(folder_paths.get_output_directory()))
        return problem or (filename_prefix is not None and prefix_problem(str(filename_prefix))) or True

    @classmethod
    @shows_errors
    @checks_inputs
    def execute(
        cls, filename_prefix, format, quality, fps, clips=None, video=None, images=None, audio=UNCONNECTED, if_out_of_sync=WARN
    ) -> io.NodeOutput:
        connected = [name for name, value in (("clips", clips), ("video", video), ("images", images)) if value is not None]
        if len(connected) != 1:
            raise ValueError(f"Connect exactly one of clips, video or images; connected: {', '.join(connected) or 'none'}.")
        chosen = FORMATS[format]
        with cls._source(clips, video, images, audio, fps) as source:
            if (problem := sync_problem(source)) and if_out_of_sync != WARN:
                raise ValueError(f"{problem} (if_out_of_sync is {if_out_of_sync}: nothing was written)")
            path, subfolder = comfy_bridge.new_output_file(filename_prefix, source.width, source.height, chosen.container, cls.hidden)
            write_video(path, source, chosen, quality, cls._metadata(), comfy_bridge.raise_if_interrupted)
        ignored = images is None and fps not in (VIDEO_FPS, float(source.fps))
        notes = [problem, f"fps {fps:g} is not used: {connected[0]} bring {float(source.fps):g}" if ignored else None]
        comfy_bridge.text_display()("\n".join([f"{Path(subfolder, path.name).as_posix()}", *filter(None, notes)]))
        for note in filter(None, notes):
            logger.warning("%s: %s", path.name, note)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), str(path), ui=cls._shown(path, subfolder, chosen))

    @classmethod
    def _shown(cls, path: Path, subfolder: str, chosen: VideoFormat) -> dict:
        """The video on the node; its first picture where browsers do not play it."""
        saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        if chosen.plays_in_browsers:
            return ui.PreviewVideo([saved]).as_dict()
        with VideoReader(str(path), 0.0, 0.0) as reader:
            return {"video": [saved], **ui.PreviewImage(reader.read([0])).as_dict()}

    @classmethod
    def _source(cls, clips, video, images, audio, fps: float) -> AbstractContextManager[VideoSource]:
        if video is not None:
            return comfy_bridge.open_video(video)
        if clips is not None:
            return nullcontext(clips.source())
        if audio is None:
            logger.warning("audio is connected but brings no sound: the video has none")
        return nullcontext(source_of_images(images, None if audio is UNCONNECTED else audio, fps))

    @classmethod
    def _metadata(cls) -> dict[str, str]:
        """The workflow, from which ComfyUI rebuilds the graph when the file is dropped on the canvas."""
        if not comfy_bridge.metadata_enabled():
            return {}
        entries = {"prompt": cls.hidden.prompt, **comfy_bridge.png_info(cls.hidden)}
        texts = {name: _as_json(name, value) for name, value in entries.items() if value is not None}
        return {name: text for name, text in texts.items() if text is not None}


def _as_json(name: str, value: Any) -> str | None:
    """A value as JSON, None for what another node has put there and is none: no video is lost for it."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        logger.warning("%s is left out of the file, as it is no JSON: %s", cut(name), cut(str(error)))
        return None


def _exact_frames(clips: Clips) -> Iterator[torch.Tensor]:
    vae = comfy_bridge.RunVae(clips.vae)
    return clips.exact_frames(vae.encode, vae.decode)


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
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.001,
                    tooltip="Frame rate of images: 16 or 25 from Decode Clips, 32 behind an interpolation x2, 48 behind x3, and so on. "
                    "0: what fits the sound, whatever stands in front.",
                ),
                io.Combo.Input(
                    "target_fps",
                    options=list(RATES),
                    default="24",
                    tooltip="Frame rate to make. From 48 come 24 and 16 in even steps; from 16 to 24 every second frame is shown twice.",
                ),
                io.Audio.Input("audio", optional=True, tooltip="The sound of the video, from Decode Clips: its length gives source_fps 0."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames at target_fps."),
                io.Float.Output(display_name="fps", tooltip="target_fps, for Save Video."),
                io.String.Output(display_name="report", tooltip="How many frames were repeated or left out."),
            ],
        )

    @classmethod
    @shows_errors
    @checks_inputs
    def execute(cls, images, source_fps, target_fps, audio=None) -> io.NodeOutput:
        images = read_pictures("images", images)
        source_fps, note = cls._rate(images.shape[0], source_fps, audio)
        conversion = convert(images.shape[0], source_fps, float(target_fps))
        report = conversion.describe() + note
        comfy_bridge.text_display()(report)
        logger.log(logging.WARNING if conversion.num_repeated or note else logging.INFO, "%s", report)
        if conversion.pictures != list(range(images.shape[0])):
            shape, advice = (len(conversion.pictures), *images.shape[1:]), "Choose a lower target_fps, or work on the video in parts."
            require_image_memory(shape, comfy_bridge.free_host_memory(), advice, images.itemsize)
            images = images[conversion.pictures]
        return io.NodeOutput(images, float(target_fps), report)

    @classmethod
    def _rate(cls, num_pictures: int, source_fps: float, audio) -> tuple[float, str]:
        """The rate of the pictures, and what to say of one that does not fit the sound."""
        if audio is None:
            if source_fps < LEAST_FPS:
                raise ValueError(f"source_fps must be at least {LEAST_FPS:g}, or 0 with audio connected; got {source_fps:g} without audio.")
            return source_fps, ""
        sound = read_audio("audio", audio)
        if source_fps < LEAST_FPS:
            return rate_by_sound(num_pictures, sound.seconds), ""
        lasts = num_pictures / source_fps
        apart = abs(lasts - sound.seconds) > MOST_APART_S
        return source_fps, f" source_fps {source_fps:g} does not fit: {lasts:.2f} s of picture, {sound.seconds:.2f} s of sound." * apart


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
        if run_name_problem(run_name) or not run_name:
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
            images = cls._of_video(video, frames)
        else:
            images = tail_of_run(RunStore.reading(run_folder(run_name)), frames)
        if len(images) < frames:
            logger.info("the video has only %d frames at %d fps, not %d", len(images), VIDEO_FPS, frames)
        return io.NodeOutput(images)

    @classmethod
    def _of_video(cls, video, frames: int) -> torch.Tensor:
        file = comfy_bridge.file_of_video(video)
        if file is not None:
            return tail_of_file(*file, frames)
        parts = video.get_components()
        return tail_of_images(read_pictures("video", parts.images), parts.frame_rate, frames)

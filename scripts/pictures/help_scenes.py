"""What the pictures of the help pages show: each node with the nodes around it, taken out of the quick-start graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int]

SMALL = {  # a run of the tiny models that takes seconds
    "WanS2VAudioEncode": {"duration": 5.0},
    "WanS2VPrepare": {"size": "custom", "size.width": 64, "size.height": 64, "frames_per_clip": 16},
    "WanS2VSampler": {"steps": 2},
}
TALKING = "talking.mp4"
FIRST_PART = "first_part"  # a run
INTERPOLATION = "film_net_fp16.safetensors"
SCHEDULE = """A woman stands in a sunny kitchen and talks to the camera, calm.
0:15 A woman stands in a sunny kitchen and laughs.
clip 6: A woman stands in a sunny kitchen and sings with all her heart."""


@dataclass(frozen=True)
class Scene:
    """Nodes in columns, named by type, or by type#title where it is a second one of its type.

    Attributes:
        columns: from left to right.
        links: "node.output > node.input", beside those of the graph.
        values: node -> widget -> value.
        sizes: node -> width and height, where the usual one does not fit.
        run: the node up to which the graph is run first, for what it shows.
    """

    columns: Sequence[Sequence[str]]
    links: Sequence[str] = ()
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    run: str = ""


SCENES: Mapping[str, Scene] = {
    "WanS2VModelLoader": Scene([["WanS2VModelLoader"], ["WanS2VSampler"]]),
    "WanS2VTextEncoderLoader": Scene([["WanS2VTextEncoderLoader"], ["WanS2VTextEncode"]]),
    "WanS2VAudioEncoderLoader": Scene([["WanS2VAudioEncoderLoader", "LoadAudio"], ["WanS2VAudioEncode"]]),
    "WanS2VVAELoader": Scene([["WanS2VVAELoader", "LoadImage"], ["WanS2VPrepare"]]),
    "WanS2VLoraLoader": Scene(
        [["WanS2VModelLoader"], ["WanS2VLoraLoader"], ["PreviewAny", "WanS2VSampler"]],
        [
            "WanS2VModelLoader.model > WanS2VLoraLoader.model",
            "WanS2VLoraLoader.model > WanS2VSampler.model",
            "WanS2VLoraLoader.report > PreviewAny.source",
        ],
        values={
            "WanS2VLoraLoader": {"lora_name": "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"},
            "WanS2VSampler": {"steps": 4, "cfg": 1.0, "shift": 5.0, "solver": "euler"},
        },
        sizes={"WanS2VLoraLoader": (460, 110), "PreviewAny": (460, 260)},
        run="PreviewAny",
    ),
    "WanS2VTextEncode": Scene([["WanS2VTextEncoderLoader"], ["WanS2VTextEncode"], ["WanS2VSampler"]]),
    "WanS2VPromptSchedule": Scene(
        [["WanS2VTextEncoderLoader"], ["WanS2VPromptSchedule"], ["WanS2VSampler"]],
        [
            "WanS2VTextEncoderLoader.clip > WanS2VPromptSchedule.clip",
            "WanS2VPromptSchedule.positive > WanS2VSampler.positive",
            "WanS2VPromptSchedule.negative > WanS2VSampler.negative",
        ],
        values={"WanS2VPromptSchedule": {"schedule": SCHEDULE, "transition": "blend"}},
        sizes={"WanS2VPromptSchedule": (520, 420)},
    ),
    "WanS2VTextToSpeech": Scene(
        [["WanS2VTextToSpeech"], ["PreviewAudio", "WanS2VAudioEncode"]],
        ["WanS2VTextToSpeech.audio > PreviewAudio.audio", "WanS2VTextToSpeech.audio > WanS2VAudioEncode.audio"],
        values={"WanS2VTextToSpeech": {"text": "Hello! This picture can say whatever you write here."}},
        sizes={"WanS2VTextToSpeech": (440, 420), "PreviewAudio": (420, 110)},
        run="PreviewAudio",
    ),
    "WanS2VAudioEncode": Scene(
        [["WanS2VAudioEncoderLoader", "LoadAudio#Song, is played", "LoadAudio#Vocals, are heard"], ["WanS2VAudioEncode"]],
        [
            "LoadAudio#Song, is played.AUDIO > WanS2VAudioEncode.audio",
            "LoadAudio#Vocals, are heard.AUDIO > WanS2VAudioEncode.driving_audio",
        ],
        values={
            "LoadAudio#Song, is played": {"audio": "sample_song.flac"},
            "LoadAudio#Vocals, are heard": {"audio": "sample_vocals.flac"},
            "WanS2VAudioEncode": {"loudness": -16.0, "silence": "rest in pauses"},
        },
    ),
    "WanS2VPrepare": Scene(
        [["LoadImage", "WanS2VAudioEncode", "WanS2VVAELoader"], ["WanS2VPrepare"], ["PreviewImage"]],
        sizes={"PreviewImage": (640, 340)},
        run="PreviewImage",
    ),
    "WanS2VAudioGuidance": Scene(
        [["WanS2VAudioGuidance"], ["WanS2VSampler"]],
        ["WanS2VAudioGuidance.audio_guidance > WanS2VSampler.audio_guidance"],
        values={"WanS2VAudioGuidance": {"audio_cfg": 6.0, "end_percent": 0.6}},
    ),
    "WanS2VPose": Scene(
        [["LoadVideo"], ["WanS2VPose"], ["WanS2VPrepare"]],
        ["LoadVideo.VIDEO > WanS2VPose.video", "WanS2VPose.pose > WanS2VPrepare.pose"],
        values={"LoadVideo": {"file": "sample_pose.mp4"}, "WanS2VPose": {"at_end": "loop"}},
        sizes={"LoadVideo": (320, 480)},
    ),
    "WanS2VSamplingOptions": Scene(
        [["WanS2VSamplingOptions"], ["WanS2VSampler"]],
        ["WanS2VSamplingOptions.options > WanS2VSampler.options"],
        values={"WanS2VSamplingOptions": {"cfg_end_percent": 0.6}},
    ),
    "WanS2VContinuity": Scene(
        [["WanS2VContinuity"], ["WanS2VSampler"]],
        ["WanS2VContinuity.continuity > WanS2VSampler.continuity"],
        values={"WanS2VContinuity": {"anchor": "latent statistics"}, "WanS2VSampler": {"run_name": "lecture"}},
    ),
    "WanS2VSampler": Scene(
        [["WanS2VTextEncode", "WanS2VPrepare"], ["WanS2VSampler"], ["WanS2VSaveVideo"]],
        values={"WanS2VSampler": {"run_name": "lecture"}},
        sizes={"WanS2VSaveVideo": (400, 240)},
    ),
    "WanS2VDecode": Scene(
        [["WanS2VDecode"], ["ImageScaleBy"], ["WanS2VSaveVideo"]],
        [
            "WanS2VSampler.clips > WanS2VDecode.clips",
            "WanS2VDecode.images > ImageScaleBy.image",
            "ImageScaleBy.IMAGE > WanS2VSaveVideo.images",
            "WanS2VDecode.audio > WanS2VSaveVideo.audio",
            "WanS2VDecode.fps > WanS2VSaveVideo.fps",
            "> WanS2VSaveVideo.clips",
        ],
        values={"ImageScaleBy": {"upscale_method": "lanczos", "scale_by": 2.0}},
        sizes={"WanS2VSaveVideo": (400, 240)},
    ),
    "WanS2VFrameRate": Scene(
        [["WanS2VDecode", "FrameInterpolationModelLoader"], ["FrameInterpolate"], ["WanS2VFrameRate"], ["WanS2VSaveVideo"]],
        [
            "WanS2VSampler.clips > WanS2VDecode.clips",
            "WanS2VDecode.images > FrameInterpolate.images",
            "FrameInterpolationModelLoader.INTERP_MODEL > FrameInterpolate.interp_model",
            "FrameInterpolate.IMAGE > WanS2VFrameRate.images",
            "WanS2VFrameRate.images > WanS2VSaveVideo.images",
            "WanS2VFrameRate.fps > WanS2VSaveVideo.fps",
            "WanS2VDecode.audio > WanS2VSaveVideo.audio",
            "> WanS2VSaveVideo.clips",
        ],
        values={
            "FrameInterpolationModelLoader": {"model_name": INTERPOLATION},
            "FrameInterpolate": {"multiplier": 3},
            "WanS2VFrameRate": {"source_fps": 48.0, "target_fps": "24"},
        },
        sizes={
            "WanS2VDecode": (300, 110),
            "FrameInterpolationModelLoader": (360, 60),
            "FrameInterpolate": (300, 90),
            "WanS2VFrameRate": (320, 130),
            "WanS2VSaveVideo": (360, 240),
        },
    ),
    "WanS2VTail": Scene(
        [["WanS2VTail"], ["WanS2VPrepare"]],
        ["WanS2VTail.images > WanS2VPrepare.previous_frames"],
        values={"WanS2VTail": {"run_name": FIRST_PART}},
    ),
    "WanS2VDriftReport": Scene(
        [["WanS2VSampler"], ["WanS2VDriftReport"]],
        ["WanS2VSampler.clips > WanS2VDriftReport.clips"],
        values=SMALL,
        sizes={"WanS2VDriftReport": (620, 520)},
        run="WanS2VDriftReport",
    ),
    "WanS2VSaveVideo": Scene(
        [["WanS2VSampler"], ["WanS2VSaveVideo"]],
        values=SMALL,
        sizes={"WanS2VSaveVideo": (440, 700)},
        run="WanS2VSaveVideo",
    ),
    "WanS2VSyncReport": Scene(
        [["LoadVideo"], ["WanS2VSyncReport"]],
        ["LoadVideo.VIDEO > WanS2VSyncReport.video"],
        values={"LoadVideo": {"file": TALKING}},
        sizes={"LoadVideo": (400, 420), "WanS2VSyncReport": (720, 530)},
        run="WanS2VSyncReport",
    ),
}

"""What the pictures of the help pages show: one node each, because the help panel is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TALKING = "talking.mp4"
FIRST_PART = "first_part"  # a run
SCHEDULE = """A woman talks to the camera, calm.
0:15 A woman laughs.
42.5s: A woman is tired."""
SMALL = {  # a run of the tiny models that takes seconds
    "WanS2VAudioEncode": {"duration": 5.0},
    "WanS2VPrepare": {"size": "custom", "size.width": 64, "size.height": 64, "frames_per_clip": 16},
    "WanS2VSampler": {"steps": 2},
}


@dataclass(frozen=True)
class Scene:
    """One node, with its defaults but for what is said here.

    Attributes:
        values: widget -> value.
        size: width and height, where that of an empty node does not fit.
        run: what has to be set or connected so that a run of the node shows something on it; None leaves the run out.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Run:
    """In a template with all nodes.

    Attributes:
        links: "type.output > type.input", beside those of the template; without an output it takes one away.
        values: type -> widget -> value.
    """

    links: Sequence[str] = ()
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SCENES: Mapping[str, Scene] = {
    "WanS2VModelLoader": Scene(),
    "WanS2VTextEncoderLoader": Scene({"text_encoder_name": "umt5_xxl_fp16.safetensors"}),
    "WanS2VAudioEncoderLoader": Scene({"audio_encoder_name": "wav2vec2_large_english_fp16.safetensors"}),
    "WanS2VVAELoader": Scene(),
    "WanS2VLoraLoader": Scene({"lora_name": "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"}),
    "WanS2VTextEncode": Scene({"negative_prompt": ""}, size=(300, 250)),
    "WanS2VPromptSchedule": Scene({"schedule": SCHEDULE, "negative_prompt": "", "transition": "blend"}, size=(300, 300)),
    "WanS2VTextToSpeech": Scene({"text": "Hello! This picture can say whatever you write here."}, size=(300, 400)),
    "WanS2VAudioEncode": Scene(),
    "WanS2VSpeakers": Scene(
        {"box_1": "0 0 50% 100%", "box_2": "50% 0 50% 100%", "turns": "0:00 1\n0:04.5 2\n0:09 1 and 2"}, size=(300, 640)
    ),
    "WanS2VPose": Scene(),
    "WanS2VDub": Scene(),
    "WanS2VPrepare": Scene(),
    "WanS2VAudioGuidance": Scene(),
    "WanS2VDraftOrFinal": Scene(),
    "WanS2VContinuity": Scene({"anchor": "latent statistics"}),
    "WanS2VSamplingOptions": Scene(),
    "WanS2VStepCache": Scene(),
    "WanS2VSampler": Scene(),
    "WanS2VLiveSampler": Scene(),
    "WanS2VDecode": Scene(),
    "WanS2VFrameRate": Scene(),
    "WanS2VTail": Scene({"run_name": FIRST_PART}),
    "WanS2VDriftReport": Scene(size=(340, 340), run=Run(["WanS2VSampler.clips > WanS2VDriftReport.clips"], SMALL)),
    "WanS2VSaveVideo": Scene(
        size=(300, 570),
        run=Run(
            ["LoadVideo.VIDEO > WanS2VSaveVideo.video", "> WanS2VSaveVideo.clips"],
            {"LoadVideo": {"file": TALKING}, "WanS2VSaveVideo": {"filename_prefix": "video/wan_s2v"}},
        ),
    ),
    "WanS2VSyncReport": Scene(size=(340, 350), run=Run(["LoadVideo.VIDEO > WanS2VSyncReport.video"], {"LoadVideo": {"file": TALKING}})),
}

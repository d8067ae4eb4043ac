"""How clips and runs follow each other: anchor and seeds, and the last frames of a video to go on from."""

import logging

from comfy_api.latest import io

from ..wan_s2v_model.conditioning.plan import ANCHORS, SEED_POLICIES, Continuity
from ..wan_s2v_model.constants import DEFAULT_GUIDANCE_SCALE
from ..wan_s2v_model.limits import share_problem
from ..wan_s2v_model.sampling.guidance import AudioGuidance
from .inputs import checks_inputs
from .sockets import WanS2VContinuitySettings, WanS2VGuidance

logger = logging.getLogger("wan_s2v")


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


class WanS2VAudioGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VAudioGuidance",
            display_name="Audio Guidance (Wan S2V)",
            category="wan s2v/sampling",
            description="Sets how strongly the sound guides the video, apart from the prompt. Steps where both differ take one call more.",
            search_aliases=["audio cfg", "lip sync", "audio scale", "s2v"],
            inputs=[
                io.Float.Input(
                    "audio_cfg",
                    default=DEFAULT_GUIDANCE_SCALE,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance by the sound; cfg of the sampler is then that by the prompt. Equal numbers are the reference and "
                    "cost nothing; more moves the mouth more, 1 is no guidance by the sound.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance by the sound begins behind this share of the steps.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance by the sound ends behind this share of the steps.",
                ),
                io.Float.Input(
                    "audio_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the sound the model hears in every step: 0 is silence, 1 the sound as it is. Costs nothing.",
                ),
            ],
            outputs=[WanS2VGuidance.Output(display_name="audio_guidance", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    def validate_inputs(cls, start_percent, end_percent) -> bool | str:
        advice = "To sample without it set audio_cfg to 1."
        return share_problem("Audio guidance", "", start_percent, end_percent, advice) or True

    @classmethod
    @checks_inputs
    def execute(cls, audio_cfg, start_percent, end_percent, audio_strength) -> io.NodeOutput:
        return io.NodeOutput(AudioGuidance(audio_cfg, start_percent, end_percent, audio_strength))

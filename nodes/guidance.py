"""Guidance by the sound, apart from that by the prompt."""

from comfy_api.latest import io

from ..wan_s2v_model.constants import DEFAULT_GUIDANCE_SCALE
from ..wan_s2v_model.guidance import AudioGuidance
from .linked_inputs import checks_inputs
from .sockets import WanS2VGuidance


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
        if start_percent is not None and end_percent is not None and not 0 <= start_percent < end_percent <= 1:
            return (
                f"Audio guidance must begin before it ends, both between 0 and 1: got start_percent {start_percent} and "
                f"end_percent {end_percent}. To sample without it set audio_cfg to 1."
            )
        return True

    @classmethod
    @checks_inputs
    def execute(cls, audio_cfg, start_percent, end_percent, audio_strength) -> io.NodeOutput:
        return io.NodeOutput(AudioGuidance(audio_cfg, start_percent, end_percent, audio_strength))

"""Prompt encoding."""

from functools import partial

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.conditioning.prompts import encode_prompt, parse_schedule, schedule_prompts
from ..wan_s2v_model.constants import NEGATIVE_PROMPT
from ..wan_s2v_model.runs.identity import note_text
from .inputs import checks_inputs

MEMORY_ADVICE = "Close other programs that use the GPU, or choose umt5_xxl_fp8_e4m3fn_scaled.safetensors in Load Wan S2V Text Encoder."
EXAMPLE = """A woman stands in a sunny kitchen and talks to the camera, calm.
0:15 A woman stands in a sunny kitchen and laughs.
# clips count from 1
clip 6: A woman stands in a sunny kitchen and sings with all her heart.
"""


class WanS2VTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VTextEncode",
            display_name="Encode Prompt (Wan S2V)",
            category="wan s2v/conditioning",
            description="Encodes the prompts as the reference does: cleaned, at most 512 tokens, parentheses taken literally.",
            search_aliases=["prompt", "s2v"],
            inputs=[
                io.Clip.Input("clip", tooltip="The umT5-XXL text encoder."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="A person is talking to the camera.",
                    tooltip="What the video shows: who, doing what, in which mood and setting.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default=NEGATIVE_PROMPT,
                    tooltip="What to avoid. The default is the model's own; empty uses it too. Not used when cfg is 1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The encoded prompt."),
                io.Conditioning.Output(display_name="negative", tooltip="The encoded negative prompt."),
            ],
        )

    @classmethod
    @checks_inputs
    def execute(cls, clip, prompt, negative_prompt) -> io.NodeOutput:
        return io.NodeOutput(_encode(clip, prompt), _encode(clip, negative_prompt, NEGATIVE_PROMPT))


class WanS2VPromptSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VPromptSchedule",
            display_name="Prompts over Time (Wan S2V)",
            category="wan s2v/conditioning",
            description="Encodes several prompts, each from a time or a clip on. They change at the borders between clips.",
            search_aliases=["prompt schedule", "prompt travel", "timed prompts", "s2v"],
            inputs=[
                io.Clip.Input("clip", tooltip="The umT5-XXL text encoder."),
                io.String.Input(
                    "schedule",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="One prompt per line, behind the time or the clip from which it holds: 0:05, 12.5s: or clip 3: (clips count "
                    "from 1). The first needs no time. Lines that begin with # are left out.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default=NEGATIVE_PROMPT,
                    tooltip="What to avoid, in all clips. The default is the model's own; empty uses it too. Not used when cfg is 1.",
                ),
                io.Combo.Input(
                    "transition",
                    options=["switch", "blend"],
                    default="switch",
                    tooltip="switch: the new prompt holds at once. blend: its embedding is mixed with that of the one before, more in "
                    "every clip. Neither costs time.",
                ),
                io.Int.Input(
                    "blend_clips",
                    default=2,
                    min=1,
                    max=100,
                    tooltip="With blend: clips in which both prompts are mixed, the first one being that where the new prompt begins.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The encoded prompts and their times, for Sample Video."),
                io.Conditioning.Output(display_name="negative", tooltip="The encoded negative prompt."),
            ],
        )

    @classmethod
    def validate_inputs(cls, schedule) -> bool | str:
        try:
            parse_schedule(EXAMPLE if schedule is None else str(schedule))  # a connected text is not known yet
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checks_inputs
    def execute(cls, clip, schedule, negative_prompt, transition, blend_clips) -> io.NodeOutput:
        prompts = parse_schedule(schedule)
        positive = schedule_prompts(partial(_encode, clip), prompts, blend_clips if transition == "blend" else 0)
        return io.NodeOutput(positive, _encode(clip, negative_prompt, NEGATIVE_PROMPT))


def _encode(clip, prompt: str, if_empty: str = "") -> list:
    text = prompt if prompt.strip() else if_empty
    encoded = comfy_bridge.run_encoder("text encoding", clip, lambda: encode_prompt(clip, text), MEMORY_ADVICE)
    return note_text(encoded, clip, text)

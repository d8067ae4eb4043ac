"""Prompt encoding."""

from comfy_api.latest import io

from ..wan_s2v_model.constants import NEGATIVE_PROMPT
from ..wan_s2v_model.text_encoder import encode_prompt


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
    def execute(cls, clip, prompt, negative_prompt) -> io.NodeOutput:
        negative = negative_prompt if negative_prompt.strip() else NEGATIVE_PROMPT
        return io.NodeOutput(encode_prompt(clip, prompt), encode_prompt(clip, negative))

"""LoRA files on the transformer."""

import folder_paths
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from .linked_inputs import checks_inputs


class WanS2VLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VLoraLoader",
            display_name="Load LoRA (Wan S2V)",
            category="wan s2v/loaders",
            description="Changes the transformer with a LoRA file of any usual dialect, and reports what of the file fits.",
            search_aliases=["lora", "lightx2v", "lightning", "live avatar", "s2v"],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL with Wan2.2-S2V weights, of this pack or of another loader."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="LoRA in models/loras, made for Wan2.2-S2V or for another Wan model of 14B.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added to the weights. 0: nothing; negative: the opposite.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The changed MODEL. Further LoRA loaders may follow."),
                io.String.Output(
                    display_name="report",
                    tooltip="How many tensors of the file fit, which parts of the model they change, and which are not used and why.",
                ),
            ],
        )

    @classmethod
    @checks_inputs
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        return io.NodeOutput(*comfy_bridge.apply_lora(model, folder_paths.get_full_path_or_raise("loras", lora_name), strength))

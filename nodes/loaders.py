"""Loaders for the four models."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.checkpoints.s2v import CheckpointError
from ..wan_s2v_model.checkpoints.shards import collapse_shards, with_folders, with_slashes
from ..wan_s2v_model.runs.identity import content_of
from .inputs import checks_inputs

SHARDED = ("diffusion_models", "text_encoders")  # folders whose models come as one file or as shards with an index
OFFLOAD = "On: only what is needed now is on the GPU. Off: once used, all of this model stays there."


def _path(folder: str, name: str) -> str:
    file = _choices(folder).get(name, name)
    path = folder_paths.get_full_path(folder, file)
    if path is None:
        raise CheckpointError(f"{file} is not in models/{folder}. Download it, or pick another model.")
    return path


def _choices(folder: str) -> dict[str, str]:
    """What a loader offers, and the file that it stands for."""
    files = [name for name in folder_paths.get_filename_list(folder) if not name.endswith(".json")]
    return with_folders(collapse_shards(files) if folder in SHARDED else files)


def _loras() -> dict[str, str]:
    return with_slashes(folder_paths.get_filename_list("loras"))


def _content(folder: str, name: str | None) -> str:
    """What tells ComfyUI that a file was replaced under its name; a linked name is not known yet, and a missing file an error later."""
    try:
        return content_of(Path(_path(folder, name))) if isinstance(name, str) and name else ""
    except (OSError, ValueError, CheckpointError):
        return ""


class WanS2VModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VModelLoader",
            display_name="Load Wan S2V Model",
            category="wan s2v/loaders",
            description="Loads the Wan2.2-S2V-14B transformer. The MODEL works with LoRA, model sampling, cache and attention nodes.",
            search_aliases=["s2v", "lip sync", "talking", "speech to video"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list(_choices("diffusion_models")),
                    tooltip="Wan2.2-S2V-14B in models/diffusion_models: a single file such as wan2.2_s2v_14B_bf16.safetensors, "
                    "or the official folder.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=["default", *comfy_bridge.DTYPES],
                    default="default",
                    tooltip="Type in which the weights are kept. default: as in the file, where the GPU can compute with it.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "precision",
                    options=list(comfy_bridge.PRECISIONS),
                    default="official",
                    tooltip="Type of the values between blocks. official: float32, as the reference. "
                    "fast: as the weights; less memory, slightly less exact.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "attention",
                    options=list(comfy_bridge.ATTENTIONS),
                    default="auto",
                    tooltip="auto: on NVIDIA Hopper and newer the fastest exact kernel there is (FlashAttention 3 on Hopper if fa3-fwd is "
                    "installed, else cuDNN), unless ComfyUI runs another attention than PyTorch's; else as ComfyUI was started. "
                    "comfyui: always as ComfyUI was started. sage: in 8 bits, faster and not exact, with SageAttention or "
                    "comfy-kitchen's int8 attention. The node says what runs, and how far off it is.",
                    advanced=True,
                ),
                io.Boolean.Input("offload", default=True, optional=True, tooltip=OFFLOAD, advanced=True),
                io.Combo.Input(
                    "speed",
                    options=list(comfy_bridge.SPEEDS),
                    default=comfy_bridge.SPEEDS[0],
                    optional=True,
                    tooltip="Trades exactness for speed; docs/performance.md in the repository of this pack has the error. "
                    "fp8 linears: the large products in 8 bits, on NVIDIA GPUs since GeForce 40 and H100. fp8 linears and attention: the "
                    "attention too, with fa3-fwd (H100) or sageattention installed. What has no effect on this GPU the node says.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The transformer, for the Wan S2V sampler or any ComfyUI sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name=None, **_):
        return _content("diffusion_models", model_name)

    @classmethod
    @checks_inputs
    def execute(cls, model_name, weight_dtype, precision, attention, offload=True, speed=comfy_bridge.SPEEDS[0]) -> io.NodeOutput:
        comfy_bridge.require_attention(attention)
        options = {"weight_dtype": weight_dtype, "precision": precision, "attention": attention, "speed": speed}
        model = comfy_bridge.load_diffusion_model(_path("diffusion_models", model_name), options, offload=offload)
        comfy_bridge.show_computation(model)
        return io.NodeOutput(model)


class WanS2VTextEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VTextEncoderLoader",
            display_name="Load Wan S2V Text Encoder",
            category="wan s2v/loaders",
            description="Loads the umT5-XXL text encoder.",
            search_aliases=["umt5", "clip", "s2v"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=list(_choices("text_encoders")),
                    tooltip="umT5-XXL file in models/text_encoders, for example umt5_xxl_fp16.safetensors.",
                ),
                io.Boolean.Input("offload", default=True, optional=True, tooltip=OFFLOAD, advanced=True),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="The text encoder; also works with CLIPTextEncode.")],
        )

    @classmethod
    def fingerprint_inputs(cls, text_encoder_name=None, **_):
        return _content("text_encoders", text_encoder_name)

    @classmethod
    @checks_inputs
    def execute(cls, text_encoder_name, offload=True) -> io.NodeOutput:
        return io.NodeOutput(comfy_bridge.load_text_encoder(_path("text_encoders", text_encoder_name), offload))


class WanS2VAudioEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VAudioEncoderLoader",
            display_name="Load Wan S2V Audio Encoder",
            category="wan s2v/loaders",
            description="Loads the wav2vec2-large audio encoder.",
            search_aliases=["wav2vec2", "s2v"],
            inputs=[
                io.Combo.Input(
                    "audio_encoder_name",
                    options=list(_choices("audio_encoders")),
                    tooltip="wav2vec2-large-xlsr-53-english in models/audio_encoders: a single file, or its Hugging Face folder.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(comfy_bridge.DTYPES),
                    default="fp32",
                    tooltip="Type in which the encoder computes. fp32 is what the reference uses; it needs 1.3 GB for a moment.",
                    advanced=True,
                ),
                io.Boolean.Input("offload", default=True, optional=True, tooltip=OFFLOAD, advanced=True),
            ],
            outputs=[io.AudioEncoder.Output(display_name="audio_encoder", tooltip="The audio encoder, for Encode Audio (Wan S2V).")],
        )

    @classmethod
    def fingerprint_inputs(cls, audio_encoder_name=None, **_):
        return _content("audio_encoders", audio_encoder_name)

    @classmethod
    @checks_inputs
    def execute(cls, audio_encoder_name, dtype, offload=True) -> io.NodeOutput:
        return io.NodeOutput(comfy_bridge.AudioEncoder(_path("audio_encoders", audio_encoder_name), dtype, offload))


class WanS2VVAELoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VVAELoader",
            display_name="Load Wan S2V VAE",
            category="wan s2v/loaders",
            description="Loads the Wan2.1 VAE, which turns pictures into latents and back.",
            search_aliases=["vae", "s2v"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=list(_choices("vae")),
                    tooltip="Wan2.1 VAE in models/vae: wan_2.1_vae.safetensors or the official Wan2.1_VAE.pth.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["fp32", "bf16"],
                    default="fp32",
                    tooltip="fp32 is what the reference uses and keeps long videos from drifting. bf16 is faster and smaller.",
                    advanced=True,
                ),
                io.Boolean.Input("offload", default=True, optional=True, tooltip=OFFLOAD, advanced=True),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="The VAE; also works with VAE Encode and VAE Decode.")],
        )

    @classmethod
    def fingerprint_inputs(cls, vae_name=None, **_):
        return _content("vae", vae_name)

    @classmethod
    @checks_inputs
    def execute(cls, vae_name, dtype, offload=True) -> io.NodeOutput:
        return io.NodeOutput(comfy_bridge.load_vae(_path("vae", vae_name), dtype, offload))


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
                    options=list(_loras()),
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
    def fingerprint_inputs(cls, lora_name=None, **_):
        return _content("loras", _loras().get(str(lora_name), lora_name))

    @classmethod
    @checks_inputs
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("loras", _loras().get(lora_name, lora_name))
        return io.NodeOutput(*comfy_bridge.apply_lora(model, path, strength))

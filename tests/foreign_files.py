"""Files of other models in small: tensor names as they are published, shapes true where they tell models apart."""

from __future__ import annotations

from collections.abc import Sequence

from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes
from wan_s2v_pack.wan_s2v_model.transformer.config import WanS2VConfig

Shapes = dict[str, Sequence[int]]

DIM = 128
S2V_TINY = WanS2VConfig(dim=DIM, ffn_dim=64, num_layers=2, text_dim=16, audio_dim=8, audio_inject_layers=(0,))
S2V_PARTS = ("casual_audio_encoder.", "audio_injector.", "frame_packer.", "cond_encoder.", "trainable_cond_mask.")


def layers(*names: str, shape: Sequence[int] = (8, 8)) -> Shapes:
    """Weight and bias of layers."""
    return {f"{name}.{part}": shape if part == "weight" else shape[:1] for name in names for part in ("weight", "bias")}


def weights(*names: str, shape: Sequence[int] = (8, 8)) -> Shapes:
    return {f"{name}.weight": shape for name in names}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def wan(in_channels: int = 16, out_channels: int = 16) -> Shapes:
    """A Wan transformer without additions."""
    shapes = {name: shape for name, shape in expected_shapes(S2V_TINY).items() if not name.startswith(S2V_PARTS)}
    shapes |= {"patch_embedding.weight": (DIM, in_channels, 1, 2, 2), "head.head.weight": (out_channels * 4, DIM)}
    return shapes | {"head.head.bias": (out_channels * 4,)}


def wan_i2v() -> Shapes:
    """Wan2.1 with the picture's CLIP tokens."""
    pictures = layers(*(f"blocks.{block}.cross_attn.{part}" for block in range(2) for part in ("k_img", "v_img")), shape=(DIM, DIM))
    return wan(36) | pictures | layers("img_emb.proj.0", "img_emb.proj.1", "img_emb.proj.3", "img_emb.proj.4")


def wan_diffusers() -> Shapes:
    attention = (f"blocks.0.attn{index}.{part}" for index in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0"))
    embedders = ("time_embedder.linear_1", "time_embedder.linear_2", "text_embedder.linear_1", "time_proj")
    names = ("patch_embedding", "proj_out", *attention, *(f"condition_embedder.{name}" for name in embedders))
    return layers(*names) | {"scale_shift_table": (1, 2, 8)}


def t5(num_layers: int, own_bias: bool, vocabulary: int = 300) -> Shapes:
    """A T5 encoder with ComfyUI's names; umT5 has a position bias in every layer, T5 in the first one only."""
    shapes: Shapes = {"shared.weight": (vocabulary, 16), "encoder.final_layer_norm.weight": (16,)}
    for index in range(num_layers):
        block = f"encoder.block.{index}.layer"
        shapes |= weights(*(f"{block}.0.SelfAttention.{part}" for part in "qkvo"), shape=(16, 16))
        shapes |= weights(*(f"{block}.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1")), shape=(32, 16))
        shapes |= weights(f"{block}.1.DenseReluDense.wo", shape=(16, 32))
        shapes |= weights(f"{block}.0.layer_norm", f"{block}.1.layer_norm", shape=(16,))
        if own_bias or index == 0:
            shapes |= weights(f"{block}.0.SelfAttention.relative_attention_bias", shape=(32, 4))
    return shapes


def official_umt5() -> Shapes:
    parts = ("norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "pos_embedding.embedding", "ffn.gate.0", "ffn.fc1", "ffn.fc2")
    return weights("token_embedding", "norm", *(f"blocks.0.{part}" for part in parts))


def wav2vec2(num_layers: int = 24) -> Shapes:
    shapes = layers(*(f"encoder.layers.{index}.attention.k_proj" for index in range(num_layers)))
    shapes |= layers("encoder.layers.0.feed_forward.intermediate_dense") | layers("encoder.layer_norm", shape=(8,))
    convolutions = {f"feature_extractor.conv_layers.{index}.conv.weight": (8, 8, 3) for index in range(7)}
    positional = "encoder.pos_conv_embed.conv"
    return shapes | convolutions | {f"{positional}.weight_g": (1, 1, 4), f"{positional}.weight_v": (8, 4, 4), f"{positional}.bias": (8,)}


def whisper() -> Shapes:
    names = ("conv1", "conv2", "layers.0.self_attn.q_proj", "layers.0.fc1", "layer_norm")
    return prefixed("model.encoder.", layers(*names) | weights("embed_positions"))


def wan_vae(channels: int = 16) -> Shapes:
    """Some tensors of a Wan VAE; 2.2 has one more level of names."""
    upsample = "decoder.upsamples.0.upsamples.0.residual.2" if channels == 48 else "decoder.upsamples.0.residual.2"
    gammas = {f"decoder.{name}.gamma": (8, 1, 1, 1) for name in ("middle.0.residual.0", "head.0")}
    return gammas | layers("encoder.conv1", "decoder.conv1", "conv1", "conv2", "decoder.head.2", upsample, shape=(channels, 8, 1, 1, 1))


def clip(tower: str) -> Shapes:
    parts = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", "self_attn.q_proj")
    return layers(*(f"{tower}.encoder.layers.0.{part}" for part in parts))


LDM_VAE = layers("encoder.conv_in", "decoder.conv_in", "encoder.down.0.block.0.conv1", "decoder.mid.block_1.conv1")
DIFFUSERS_VAE = layers("encoder.conv_in", "decoder.conv_in", "decoder.mid_block.resnets.0.conv1", "decoder.up_blocks.0.resnets.0.norm1")
SD_UNET = layers("time_embed.0", "input_blocks.0.0", "middle_block.0.in_layers.0", "out.2")
S2V = "a Wan2.2-S2V transformer; pick it in Load Wan S2V Model"
UMT5 = "the umT5 text encoder; pick it in Load Wan S2V Text Encoder"
AUDIO = "a wav2vec2 audio encoder; pick it in Load Wan S2V Audio Encoder"
VAE = "a Wan VAE; pick it in Load Wan S2V VAE"
LORA = "a LoRA; pick it in Load LoRA (Wan S2V)"
IMAGE_VAE = "the VAE of an image model (Stable Diffusion, SDXL, Flux)"
T2V = "a Wan text-to-video model"
I2V = "a Wan image-to-video model"
QUERY = "blocks.0.self_attn.q"

# name of the file: (tensors, what it looks like)
FOREIGN_FILES: dict[str, tuple[Shapes, str]] = {
    "wan2.2_s2v": (expected_shapes(S2V_TINY), S2V),
    "wan2.2_s2v_prefix": (prefixed("model.diffusion_model.", expected_shapes(S2V_TINY)), S2V),
    "wan2.1_t2v_14B": (wan(), T2V),
    "wan2.2_t2v_prefix": (prefixed("model.diffusion_model.", wan()), T2V),
    "wan2.1_i2v_720p": (wan_i2v(), I2V),
    "wan2.2_i2v_high_noise": (wan(36), I2V),
    "wan2.2_ti2v_5B": (wan(48, 48), "the Wan2.2 5B model (TI2V)"),
    "wan2.2_other": (wan(100), "a Wan text-to-video or image-to-video model without the S2V audio layers"),
    "wan2.2_animate": (
        wan_i2v()
        | layers("face_adapter.fuser_blocks.0.linear1_kv", "pose_patch_embedding")
        | weights("face_adapter.fuser_blocks.0.k_norm"),
        "a Wan2.2-Animate model",
    ),
    "wan2.1_vace": (wan() | layers("vace_patch_embedding", "vace_blocks.0.before_proj", "vace_blocks.0.after_proj"), "a Wan VACE model"),
    "wan2.2_fun_control": (wan(52) | layers("ref_conv"), "a Wan Fun control model"),
    "wan2.1_fun_camera": (wan_i2v() | layers("control_adapter.conv"), "a Wan Fun camera model"),
    "humo_17B": (wan(36) | layers("audio_proj.audio_proj_glob_1.layer", "audio_proj.audio_proj_glob_2.layer"), "a HuMo model"),
    "infinitetalk": (
        layers("audio_proj.proj1", "audio_proj.proj1_vf", "audio_proj.norm", "blocks.0.audio_cross_attn.kv_linear"),
        "the audio layers of MultiTalk or InfiniteTalk, an addition to Wan image-to-video",
    ),
    "wan_infinitetalk": (
        wan_i2v() | layers("multitalk_audio_proj.proj1", "blocks.0.audio_cross_attn.kv_linear"),
        "a Wan model with MultiTalk or InfiniteTalk audio layers",
    ),
    "fantasytalking": (
        layers("proj_model.proj", "proj_model.norm") | weights("blocks.0.cross_attn.processor.k_proj"),
        "the audio layers of FantasyTalking, an addition to Wan image-to-video",
    ),
    "wan_diffusers": (wan_diffusers(), "a Wan model in the layout of diffusers"),
    "wan_2.1_vae": (wan_vae(), VAE),
    "wan2.2_vae": (wan_vae(48), "the Wan2.2 VAE of the 5B model"),
    "wan_vae_prefix": (prefixed("model.", wan_vae()), VAE),
    "wan_vae_of_checkpoint": (prefixed("vae.", wan_vae()), VAE),
    "wan_vae_diffusers": (
        layers("decoder.conv_in", "quant_conv") | {"decoder.mid_block.attentions.0.norm.gamma": (8, 1, 1)},
        "a Wan or Qwen-Image VAE in the layout of diffusers",
    ),
    "taew2_1": (layers("encoder.0", "decoder.1", "decoder.22"), "a small VAE for previews (TAE)"),
    "ae": (LDM_VAE, IMAGE_VAE),
    "sdxl_vae_diffusers": (DIFFUSERS_VAE, IMAGE_VAE),
    "ltx_vae": (layers("decoder.up_blocks.0.res_blocks.0.conv1.conv", "encoder.conv_in.conv"), "the VAE of LTX-Video"),
    "hunyuan_video_vae": (layers("decoder.mid.block_1.conv1.conv", "decoder.conv_in.conv"), "the VAE of HunyuanVideo"),
    "umt5_xxl": (t5(2, own_bias=True) | {"spiece_model": (50,)}, UMT5),
    "umt5_without_tokenizer": (t5(2, own_bias=True), UMT5),
    "models_t5_umt5-xxl-enc": (official_umt5(), UMT5),
    "t5xxl": (t5(2, own_bias=False, vocabulary=32_128), "a T5 text encoder (of Flux, SD3 or LTX-Video), not umT5"),
    "clip_l": (clip("text_model") | weights("text_model.embeddings.token_embedding"), "a CLIP text encoder"),
    "clip_vision_h": (clip("vision_model") | weights("visual_projection"), "a CLIP vision model"),
    "models_clip_open-clip": (
        layers("visual.transformer.0.norm1", "visual.transformer.0.attn.to_qkv"),
        "a CLIP model of Wan image-to-video",
    ),
    "qwen_2.5_vl": (layers("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"), "a language model (Qwen, Llama, Gemma)"),
    "wav2vec2_large": (wav2vec2(), AUDIO),
    "wav2vec2_ctc": (prefixed("wav2vec2.", wav2vec2()) | layers("lm_head"), AUDIO),
    "wavlm_large": (prefixed("wavlm.", wav2vec2()), "a WavLM audio encoder"),
    "data2vec_audio": (prefixed("data2vec_audio.", wav2vec2()), "a data2vec audio encoder"),
    "unispeech": (prefixed("unispeech.", wav2vec2()), "a UniSpeech audio encoder"),
    "unispeech_sat": (prefixed("unispeech_sat.", wav2vec2()), "a UniSpeech-SAT audio encoder"),
    "wav2vec2_conformer": (prefixed("wav2vec2_conformer.", wav2vec2()), "a wav2vec2-Conformer audio encoder"),
    "hubert_large": (prefixed("hubert.", wav2vec2()) | layers("lm_head"), "a HuBERT audio encoder"),
    "whisper_large_v3": (whisper(), "a Whisper audio encoder"),
    "lora_kohya": (
        weights("lora_unet_blocks_0_self_attn_q.lora_down", "lora_unet_blocks_0_self_attn_q.lora_up")
        | {"lora_unet_blocks_0_self_attn_q.alpha": ()},
        LORA,
    ),
    "lora_alpha_only": ({"lora_unet_blocks_0_cross_attn_k.alpha": ()}, LORA),
    "lora_diffusers": (weights(f"transformer.{QUERY}.lora_A", f"transformer.{QUERY}.lora_B"), LORA),
    "lora_peft": (weights(f"base_model.model.{QUERY}.lora_A.default", f"base_model.model.{QUERY}.lora_B.default"), LORA),
    "lora_comfyui": (weights(f"diffusion_model.{QUERY}.lora_down", f"diffusion_model.{QUERY}.lora_up"), LORA),
    "lora_diff": ({f"diffusion_model.{QUERY}.diff": (8, 8), f"diffusion_model.{QUERY}.diff_b": (8,)}, LORA),
    "lora_diff_b": ({"diffusion_model.head.head.diff_b": (8,)}, LORA),
    "lora_loha": ({f"{QUERY}.hada_w1_a": (8, 2), f"{QUERY}.hada_w1_b": (2, 8)}, LORA),
    "lora_lokr": ({f"{QUERY}.lokr_w1": (2, 2), f"{QUERY}.lokr_w2": (4, 4)}, LORA),
    "lora_early_diffusers": (weights(f"unet.{QUERY}.lora_linear_layer.down", f"unet.{QUERY}.lora_linear_layer.up"), LORA),
    "lora_oft": ({f"{QUERY}.oft_blocks": (4, 2, 2)}, LORA),
    "lora_s2v": (weights("audio_injector.injector.0.q.lora_A", "audio_injector.injector.0.q.lora_B"), LORA),
    "sd15_checkpoint": (
        prefixed("model.diffusion_model.", SD_UNET)
        | prefixed("first_stage_model.", LDM_VAE)
        | prefixed("cond_stage_model.transformer.", clip("text_model")),
        "a whole checkpoint (a Stable Diffusion or SDXL model together with VAE or text encoder); pick it in Load Checkpoint",
    ),
    "s2v_checkpoint": (
        prefixed("model.diffusion_model.", expected_shapes(S2V_TINY)) | prefixed("vae.", wan_vae()),
        "a whole checkpoint (a Wan2.2-S2V transformer together with VAE or text encoder); pick it in Load Checkpoint",
    ),
    "sd_unet": (SD_UNET, "a Stable Diffusion or SDXL model"),
    "sd_unet_diffusers": (layers("conv_in", "down_blocks.0.resnets.0.conv1", "conv_out"), "a Stable Diffusion or SDXL model"),
    "sd3": (layers("x_embedder.proj", "joint_blocks.0.context_block.attn.qkv"), "a Stable Diffusion 3 model"),
    "flux1-dev": (layers("img_in", "txt_in") | {"double_blocks.0.img_attn.norm.key_norm.scale": (8,)}, "a Flux model"),
    "hunyuan_video": (
        layers("img_in.proj", "txt_in.individual_token_refiner.blocks.0.norm1", "double_blocks.0.img_attn.proj"),
        "a HunyuanVideo model",
    ),
    "qwen_image": (layers("img_in", "transformer_blocks.0.attn.add_q_proj") | weights("txt_norm"), "a Qwen-Image model"),
    "ltxv": (layers("adaln_single.emb.timestep_embedder.linear_1", "patchify_proj"), "an LTX-Video model"),
    "upscaler": (layers("conv_first", "body.0.rdb1.conv1"), "something else (4 tensors)"),
    "no_tensors": ({}, "something else (0 tensors)"),
}

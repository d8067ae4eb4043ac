"""Says in words what a file with these tensors is and where it belongs: the one list of models that are told apart."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..constants import LATENT_CHANNELS, NUM_AUDIO_LAYERS
from ..untrusted import layers_problem
from .file_format import AGAIN_OR_OTHER, CheckpointError, listing, require_no_stand_in, some

logger = logging.getLogger("wan_s2v")
Shapes = Mapping[str, Sequence[int]]
Contents = TypeVar("Contents")
MOST_PREFIXES = 5  # words in front of the names of a model's tensors
CHECKPOINT_MODEL = "model.diffusion_model."  # the transformer in a whole checkpoint
PARTS_OF_CHECKPOINT = (CHECKPOINT_MODEL, "first_stage_model.", "cond_stage_model.", "conditioner.", "vae.", "text_encoders.")
# Compiled, sharded, checkpointed and distributed training wraps modules; some trainers save the names as they are then.
TRAINING_WRAPPER = re.compile(r"_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)[._]|(?<=\.)module\.")
BUFFER = re.compile(  # what programs store beside the weights: tables and counters, which every model makes itself
    r"(?:.*\.)?(?:(?:model_sampling|noise_scheduler|scheduler)\..+|(?:\w+_)?freqs?(?:_\w+)?|(?:cos|sin)_cached|(?:log_)?sigmas?(?:_\w+)?"
    r"|timesteps|betas|(?:sqrt_|log_)?(?:one_minus_|recip_)?alphas_cumprod(?:_prev)?|latents_(?:mean|std)|logvar|logit_scale|position_ids"
    r"|num_batches_tracked|num_updates|n_averaged|(?:ema_)?decay|_extra_state|version|global_step|step|iteration|epoch)"
)
SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")
LORA = re.compile(
    r"lora_(up|down|A|B|unet|te|linear_layer)|lora\.(up|down)|\.(hada_w|lokr_w)[12]|\.(diff|diff_b|diff_m|dora_scale|oft_blocks)$"
)
LORA_FILE = "a LoRA; pick it in Load LoRA (Wan S2V)"
WAN_KEY = "head.modulation"
WAN_MODEL = "a Wan text-to-video or image-to-video model without the S2V audio layers"
POSITION_BIAS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
S2V_KEYS = ("casual_audio_encoder.encoder.final_linear.weight", "frame_packer.proj.weight", "trainable_cond_mask.weight")
OFFICIAL_UMT5 = (  # of the file of the Wan authors; the names of either line show it
    ("token_embedding.weight", "blocks.0.attn.q.weight"),
    ("blocks.0.pos_embedding.embedding.weight",),
)
TOKENIZER = "spiece_model"  # in the text encoder's file, as if it were a tensor
TOKENIZER_PLACES = (  # seen from the folder of the file; the last is that of diffusers
    "spiece.model",
    "google/umt5-xxl/spiece.model",
    "umt5-xxl/spiece.model",
    "tokenizer/spiece.model",
    "../tokenizer/spiece.model",
)

OTHER_FILE = "Pick a bf16, fp16 or fp8_scaled file, or a GGUF file in its own loader."

# What other programs than ComfyUI store beside or instead of a weight, and what that quantisation is called.
OTHER_PROGRAMS = (
    (re.compile(r"\.weight\.(?:absmax|quant_map|quant_state\.bitsandbytes__\w+)$|\.SCB$"), "bitsandbytes (NF4, FP4 or LLM.int8)"),
    (re.compile(r"\.(?:wscales|wzeros|smooth_factor(?:_orig)?)$"), "SVDQuant (Nunchaku)"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.weight\._(?:data|scale|shift)$|\.weight_qtype$"), "Quanto"),
    (re.compile(r"[._]weight_qdata$|\.weight:_(?:data|scale)$"), "torchao"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"\.weight_scale_inv$"), "float8 in blocks (DeepSeek)"),
)


@dataclass(frozen=True)
class Kind:
    """What one of our loaders takes.

    Attributes:
        words: name it where it is picked in another loader.
        refusal, advice: begin and end the message about another file in its own loader.
    """

    words: str
    refusal: str
    advice: str


S2V = Kind(
    "a Wan2.2-S2V transformer; pick it in Load Wan S2V Model",
    "is not a Wan2.2-S2V transformer: it looks like",
    "Pick a Wan2.2-S2V-14B file, for example wan2.2_s2v_14B_bf16.safetensors, in models/diffusion_models.",
)
UMT5 = Kind(
    "the umT5 text encoder; pick it in Load Wan S2V Text Encoder",
    "is not a umT5 text encoder: it looks like",
    "Pick umt5_xxl_fp16.safetensors or umt5_xxl_fp8_e4m3fn_scaled.safetensors in models/text_encoders.",
)
WAV2VEC2 = Kind(
    "a wav2vec2 audio encoder; pick it in Load Wan S2V Audio Encoder",
    "is not a wav2vec2 audio encoder: it looks like",
    "Pick the wav2vec2-large-xlsr-53-english file in models/audio_encoders.",
)
WAN_VAE = Kind(
    "a Wan VAE; pick it in Load Wan S2V VAE",
    "is not the Wan2.1 VAE: it looks like",
    "Pick wan_2.1_vae.safetensors or Wan2.1_VAE.pth in models/vae.",
)

WAV2VEC2_KEY = "feature_extractor.conv_layers.0.conv.weight"
WAV2VEC2_RELATIVES = {  # what stands before the names of tensors that are else those of wav2vec2
    "hubert": "HuBERT",
    "wavlm": "WavLM",
    "data2vec_audio": "data2vec",
    "unispeech": "UniSpeech",
    "unispeech_sat": "UniSpeech-SAT",
    "wav2vec2_conformer": "wav2vec2-Conformer",
}

# The first entry whose keys are all present names the file.
KINDS: tuple[tuple[Kind | str, tuple[str, ...]], ...] = (
    *((S2V, (key,)) for key in S2V_KEYS),
    ("a Wan VACE model", ("vace_patch_embedding.weight",)),
    ("a Wan2.2-Animate model", ("face_adapter.fuser_blocks.0.k_norm.weight",)),
    ("a HuMo model", ("audio_proj.audio_proj_glob_1.layer.bias",)),
    ("a Wan model with MultiTalk or InfiniteTalk audio layers", ("multitalk_audio_proj.proj1.weight",)),
    ("the audio layers of MultiTalk or InfiniteTalk, an addition to Wan image-to-video", ("audio_proj.proj1.weight",)),
    ("the audio layers of FantasyTalking, an addition to Wan image-to-video", ("proj_model.proj.weight",)),
    ("a Wan Fun camera model", ("control_adapter.conv.weight", WAN_KEY)),
    ("a Wan Fun control model", ("ref_conv.weight", WAN_KEY)),
    ("a Wan image-to-video model", ("img_emb.proj.0.bias", WAN_KEY)),
    ("a Wan model in the layout of diffusers", ("condition_embedder.time_embedder.linear_1.weight", "blocks.0.attn1.to_q.weight")),
    ("the Wan2.2 VAE of the 5B model", ("decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight")),
    (WAN_VAE, ("decoder.middle.0.residual.0.gamma",)),
    (WAN_VAE, ("decoder.head.0.gamma",)),
    ("a Wan or Qwen-Image VAE in the layout of diffusers", ("decoder.mid_block.attentions.0.norm.gamma",)),
    ("the VAE of an image model (Stable Diffusion, SDXL, Flux)", ("decoder.mid.block_1.conv1.weight",)),
    ("the VAE of an image model (Stable Diffusion, SDXL, Flux)", ("decoder.mid_block.resnets.0.conv1.weight",)),
    ("the VAE of LTX-Video", ("decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",)),
    ("the VAE of HunyuanVideo", ("decoder.mid.block_1.conv1.conv.weight",)),
    ("a small VAE for previews (TAE)", ("decoder.22.bias",)),
    (UMT5, ("spiece_model", "shared.weight")),
    (UMT5, (POSITION_BIAS.format(1),)),
    *((UMT5, names) for names in OFFICIAL_UMT5),
    ("a T5 text encoder (of Flux, SD3 or LTX-Video), not umT5", (POSITION_BIAS.format(0),)),
    ("a T5 text encoder, not umT5", ("shared.weight",)),
    ("a CLIP vision model", ("vision_model.encoder.layers.0.layer_norm1.weight",)),
    ("a CLIP model of Wan image-to-video", ("visual.transformer.0.norm1.weight",)),
    ("a CLIP text encoder", ("text_model.encoder.layers.0.mlp.fc1.weight",)),
    ("a language model (Qwen, Llama, Gemma)", ("model.layers.0.self_attn.q_proj.weight",)),
    (WAV2VEC2, (WAV2VEC2_KEY,)),
    (WAV2VEC2, ("feature_projection.projection.weight",)),
    *((f"a {name} audio encoder", (f"{prefix}.{WAV2VEC2_KEY}",)) for prefix, name in WAV2VEC2_RELATIVES.items()),
    ("a Whisper audio encoder", ("model.encoder.embed_positions.weight",)),
    ("a Whisper audio encoder", ("encoder.embed_positions.weight",)),
    ("a Stable Diffusion or SDXL model", ("input_blocks.0.0.weight",)),
    ("a Stable Diffusion or SDXL model", ("down_blocks.0.resnets.0.conv1.weight",)),
    ("a Stable Diffusion 3 model", ("joint_blocks.0.context_block.attn.qkv.weight",)),
    ("a HunyuanVideo model", ("txt_in.individual_token_refiner.blocks.0.norm1.weight",)),
    ("a Flux model", ("double_blocks.0.img_attn.norm.key_norm.scale",)),
    ("a Qwen-Image model", ("txt_norm.weight", "transformer_blocks.0.attn.add_q_proj.weight")),
    ("an LTX-Video model", ("adaln_single.emb.timestep_embedder.linear_1.bias",)),
    (WAN_MODEL, (WAN_KEY,)),
)


def require(kind: Kind, shapes: Shapes, file_name: str) -> None:
    """Raise CheckpointError unless these are tensors of this kind; some of them may be missing."""
    found = identify(shapes)
    if found is not kind:
        part = " It is one part of a model in several files." if SHARD.fullmatch(file_name) else ""
        raise CheckpointError(f"{file_name} {kind.refusal} {found.words if isinstance(found, Kind) else found}.{part} {kind.advice}")


def identify(shapes: Shapes) -> Kind | str:
    """What one of our loaders takes, or what else it is in words."""
    if any(LORA.search(name) for name in shapes):
        return LORA_FILE
    names = _without_prefixes(shapes)
    bare = {names[name]: shape for name, shape in shapes.items()}
    found, keys = _known(bare) or (f"something else ({len(shapes)} tensors)", ())
    if found == WAN_MODEL:
        found = _wan_model(bare)
    words = found.words.partition(";")[0] if isinstance(found, Kind) else found
    if any(name.startswith(PARTS_OF_CHECKPOINT) for name in bare):
        return f"a whole checkpoint ({words} together with VAE or text encoder); pick it in Load Checkpoint"
    if isinstance(found, Kind) and (copies := [name for name in bare if name.endswith(f".{keys[0]}")]):
        return f"a file from training, with {words} twice ({keys[0]} and {copies[0]})"
    return found


def require_known_quantisation(names: Collection[str], file_name: str) -> None:
    """Raise CheckpointError if another program has packed the weights, in a form for which ComfyUI has no layers."""
    for pattern, words in OTHER_PROGRAMS:
        found = sorted(name for name in names if pattern.search(name))
        if found:
            raise CheckpointError(f"{file_name} is quantised by {words}, which ComfyUI has no layers for ({found[0]}). {OTHER_FILE}")


def unwrap(tensors: Mapping[str, Contents], file_name: str) -> dict[str, Contents]:
    """The tensors of a file under the names that the model gives them, without what is no weight.

    Programs put words in front of the names (`model.diffusion_model.`, `net.`) and into them, or store tables beside the weights.

    Raises:
        CheckpointError: if two tensors have the same name then.
    """
    names = _without_prefixes(tensors)
    tables = [name for name, wanted in names.items() if BUFFER.fullmatch(wanted)]
    bare: dict[str, Contents] = {}
    twice = []
    for name in (name for name in names if name not in tables):
        twice += [name] if names[name] in bare else []
        bare[names[name]] = tensors[name]
    if tables:
        logger.info("%s: %s", file_name, listing("are no weights and not used", tables))
    if twice:
        raise CheckpointError(f"{file_name} holds some tensors twice, with and without words in front ({some(twice)}). {AGAIN_OR_OTHER}")
    return bare


def _without_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Name in a file -> name in the model: words that most names begin with are taken off until the model is one that is known."""
    levels = list(_levels(names))
    found = [(bare, _known(bare.values())) for bare in levels]
    known = [bare for bare, entry in found if entry and entry[0] != WAN_MODEL] or [bare for bare, entry in found if entry]
    return known[0] if known else levels[0]


def _levels(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """The names as they are, without the word that most begin with, without two words, and so on."""
    bare = {name: TRAINING_WRAPPER.sub("", name) for name in names}
    yield bare
    for _ in range(MOST_PREFIXES):
        words = Counter(name.partition(".")[0] + "." for name in bare.values() if "." in name)
        is_checkpoint = any(name.startswith(CHECKPOINT_MODEL) for name in bare.values())
        prefix = CHECKPOINT_MODEL if is_checkpoint else next((word for word, _ in words.most_common(1)), "")
        bare = {name: stripped.removeprefix(prefix) for name, stripped in bare.items()}
        yield bare


def _known(names: Iterable[str]) -> tuple[Kind | str, Sequence[str]] | None:
    """What a file with these names is, and the names that show it."""
    present = set(names)
    return next((entry for entry in KINDS if all(key in present for key in entry[1])), None)


def _wan_model(shapes: Shapes) -> str:
    """Tell plain Wan transformers apart by the channels that go in and come out."""
    patch, head = (tuple(shapes.get(name, ())) for name in ("patch_embedding.weight", "head.head.weight"))
    channels = patch[1] if len(patch) > 1 else None
    if head[:1] == (192,):  # 48 channels in patches of 2 x 2
        return "the Wan2.2 5B model (TI2V)"
    if channels == LATENT_CHANNELS:
        return "a Wan text-to-video model"
    if channels == 36:  # noise, mask and picture
        return "a Wan image-to-video model"
    return WAN_MODEL


def count_layers(names: Collection[str], pattern: str) -> int:
    """How many layers there are, by the highest number behind `pattern`; any tensor of the others may be missing.

    Raises:
        CheckpointError: there are fewer tensors than layers.
    """
    numbers = (int(found[1]) for found in map(re.compile(pattern + r"\.(\d{1,18})\.").match, names) if found)
    num_layers = 1 + max(numbers, default=-1)
    if num_layers and (problem := layers_problem(num_layers, len(names))):
        raise CheckpointError(f"The file is damaged: {problem}. {AGAIN_OR_OTHER}")
    return num_layers


def require_audio_layers(num_layers: int, file_name: str) -> None:
    """Raise CheckpointError unless a wav2vec2 has as many layers as Wan2.2-S2V listens to."""
    if num_layers + 1 != NUM_AUDIO_LAYERS:
        raise CheckpointError(
            f"{file_name} has {num_layers} layers; Wan2.2-S2V needs {NUM_AUDIO_LAYERS - 1}. Use wav2vec2-large-xlsr-53-english."
        )


def is_official_umt5(names: Collection[str]) -> bool:
    """Whether a umT5 file has the tensor names of the Wan authors."""
    return any(all(name in names for name in shown) for shown in OFFICIAL_UMT5)


def find_tokenizer(folder: Path, file_name: str) -> Path:
    """The tokenizer beside a umT5 file that has none inside.

    Raises:
        CheckpointError: if it is not there, or only a pointer or a page in its place.
    """
    places = [folder / place for place in TOKENIZER_PLACES]
    tokenizer = next((place for place in places if place.is_file()), None)
    if tokenizer is None:
        raise CheckpointError(
            f"{file_name} needs its tokenizer: put spiece.model of google/umt5-xxl beside it or into {places[1].parent}, "
            "or pick ComfyUI's umt5_xxl_fp16.safetensors, which brings it."
        )
    require_no_stand_in(tokenizer)
    return tokenizer

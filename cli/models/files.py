"""The published files of the four models: where they are on the Hugging Face hub, and where ComfyUI looks for them.

Sizes are rounded and only for reading; exact sizes and hashes come from the hub when a file is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

HUB = "https://huggingface.co"
REVISION = "main"
OFFICIAL = "Wan-AI/Wan2.2-S2V-14B"
SETS = {"comfy": "fp8", "official": "bf16"}  # with the precision that is taken unless another one is asked for: that of the templates
PRECISIONS = ("fp8", "bf16")
REAL_NAMES = {  # name under which the workflows look for a file -> tiny file that stands in for it
    "wan2.2_s2v_14B_bf16.safetensors": "diffusion_models/wan_s2v_tiny.safetensors",
    "wan2.2_s2v_14B_fp8_scaled.safetensors": "diffusion_models/wan_s2v_tiny.safetensors",
    "umt5_xxl_fp16.safetensors": "text_encoders/umt5_tiny.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": "text_encoders/umt5_tiny.safetensors",
    "wav2vec2_large_english_fp16.safetensors": "audio_encoders/wav2vec2-tiny/model.safetensors",
    "wan_2.1_vae.safetensors": "vae/wan_2.1_vae_tiny.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors": "loras/tiny_lightx2v.safetensors",
    "liveavatar.safetensors": "loras/tiny_live_avatar.safetensors",
    "RealESRGAN_x4plus.safetensors": "upscale_models/tiny_compact_x4.safetensors",
    "film_net_fp16.safetensors": "frame_interpolation/tiny_rife.safetensors",
}
TINY_FILES = frozenset(path.split("/", 1)[1] for path in REAL_NAMES.values())  # as the loaders list them
WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"


@dataclass(frozen=True)
class Part:
    """One of the models that a video needs.

    Attributes:
        title: in words.
        folder: ComfyUI's model folder.
        pattern: regular expression that usual file names match, whatever set they come from.
        needed: no video without it.
    """

    title: str
    folder: str
    pattern: str
    needed: bool = True


@dataclass(frozen=True)
class ModelFile:
    """One file on the hub.

    Attributes:
        part: key of PARTS.
        repository: owner/name on the hub.
        path: in the repository.
        name: below ComfyUI's folder of the part, as the loaders list it.
        gigabytes: size, rounded.
        precisions: the choices of precision that use this file.
        sha256: of the published file, from another place than the hub; "" where nobody has noted it yet.
    """

    part: str
    repository: str
    path: str
    name: str
    gigabytes: float
    precisions: tuple[str, ...] = PRECISIONS
    sha256: str = ""

    @property
    def folder(self) -> str:
        return PARTS[self.part].folder

    @property
    def url(self) -> str:
        """Where the file itself is (not its page)."""
        return f"{HUB}/{self.repository}/resolve/{REVISION}/{self.path}"


def _comfy(part: str, repository: str, name: str, gigabytes: float, *precisions: str) -> ModelFile:
    path = f"split_files/{PARTS[part].folder}/{name}"
    return ModelFile(part, repository, path, name, gigabytes, precisions or PRECISIONS)


def _official(part: str, path: str, gigabytes: float, prefix: str = "") -> ModelFile:
    return ModelFile(part, OFFICIAL, path, prefix + path, gigabytes, ("bf16",))


def select(file_set: str, precision: str | None, parts: tuple[str, ...]) -> list[ModelFile]:
    """The files of a set in one precision (None: its usual one), for the given parts."""
    wanted = precision or SETS[file_set]
    return [file for file in FILES[file_set] if file.part in parts and wanted in file.precisions]


def by_name(name: str) -> ModelFile | None:
    """The file that the loaders list under this name, None when it is none of ours."""
    return next((file for files in FILES.values() for file in files if file.name == name), None)


PARTS = {
    "model": Part("Model", "diffusion_models", r"s2v"),
    "text": Part("Text encoder", "text_encoders", r"umt5"),
    "audio": Part("Audio encoder", "audio_encoders", r"wav2vec2"),
    "vae": Part("VAE", "vae", r"wan_?2[._]1"),
    "lora": Part("LoRA", "loras", r"lightx2v|lightning", needed=False),
    "live": Part("LoRA for live video", "loras", r"live_?avatar", needed=False),
}
BY_DEFAULT = tuple(part for part in PARTS if part != "live")  # what `download` fetches where nothing is said


LIVE_AVATAR = ModelFile("live", "Quark-Vision/Live-Avatar", "liveavatar.safetensors", "liveavatar.safetensors", 1.35)
FILES: dict[str, tuple[ModelFile, ...]] = {
    "comfy": (
        _comfy("model", WAN22, "wan2.2_s2v_14B_bf16.safetensors", 32.6, "bf16"),
        _comfy("model", WAN22, "wan2.2_s2v_14B_fp8_scaled.safetensors", 16.4, "fp8"),
        _comfy("text", WAN21, "umt5_xxl_fp16.safetensors", 11.4, "bf16"),
        _comfy("text", WAN21, "umt5_xxl_fp8_e4m3fn_scaled.safetensors", 6.7, "fp8"),
        _comfy("audio", WAN22, "wav2vec2_large_english_fp16.safetensors", 0.63),
        _comfy("vae", WAN22, "wan_2.1_vae.safetensors", 0.25),
        _comfy("lora", WAN22, "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors", 1.2),
        LIVE_AVATAR,
    ),
    "official": (
        _official("model", "config.json", 0.0, "Wan2.2-S2V-14B/"),
        _official("model", "diffusion_pytorch_model.safetensors.index.json", 0.0, "Wan2.2-S2V-14B/"),
        _official("model", "diffusion_pytorch_model-00001-of-00004.safetensors", 10.0, "Wan2.2-S2V-14B/"),
        _official("model", "diffusion_pytorch_model-00002-of-00004.safetensors", 9.9, "Wan2.2-S2V-14B/"),
        _official("model", "diffusion_pytorch_model-00003-of-00004.safetensors", 10.0, "Wan2.2-S2V-14B/"),
        _official("model", "diffusion_pytorch_model-00004-of-00004.safetensors", 2.8, "Wan2.2-S2V-14B/"),
        _official("text", "models_t5_umt5-xxl-enc-bf16.pth", 11.4),
        _official("text", "google/umt5-xxl/spiece.model", 0.0),
        _official("audio", "wav2vec2-large-xlsr-53-english/config.json", 0.0),
        _official("audio", "wav2vec2-large-xlsr-53-english/model.safetensors", 1.3),
        _official("vae", "Wan2.1_VAE.pth", 0.5),
        LIVE_AVATAR,
    ),
}

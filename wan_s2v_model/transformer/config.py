"""Architecture facts of a Wan S2V checkpoint."""

from dataclasses import dataclass

from ..constants import HEAD_DIM, LATENT_CHANNELS, NUM_AUDIO_LAYERS


@dataclass(frozen=True)
class WanS2VConfig:
    """Dimensions of one checkpoint; `checkpoint.infer_config` reads them from a file."""

    dim: int
    ffn_dim: int
    num_layers: int
    text_dim: int
    audio_dim: int
    audio_inject_layers: tuple[int, ...]
    text_len: int = 512
    freq_dim: int = 256
    in_channels: int = LATENT_CHANNELS
    out_channels: int = LATENT_CHANNELS
    cond_channels: int = LATENT_CHANNELS
    num_audio_layers: int = NUM_AUDIO_LAYERS
    num_audio_tokens: int = 4
    head_dim: int = HEAD_DIM
    eps: float = 1e-6

    @property
    def num_heads(self) -> int:
        return self.dim // self.head_dim

    def to_metadata(self) -> dict[str, object]:
        """The `config.transformer` metadata that ComfyUI's own loader and ours read from a safetensors file."""
        return {"text_dim": self.text_dim, "audio_dim": self.audio_dim, "audio_inject_layers": list(self.audio_inject_layers)}


S2V_14B = WanS2VConfig(
    dim=5120,
    ffn_dim=13824,
    num_layers=40,
    text_dim=4096,
    audio_dim=1024,
    audio_inject_layers=(0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
)

"""Audio inside the transformer: the causal encoder of wav2vec2 features and the cross attention that injects them.

The module names, `casual` included, are those of the checkpoint.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import MOTION_FRAMES, MOTION_LATENTS
from ..kernels.casting import CastWeights, cast_weights, is_changed, run_as_input
from ..kernels.float8 import Activation
from ..kernels.fused import add_gated, layer_norm, modulated_norm
from ..kernels.triton_works import products_work
from .blocks import Attention, Compute, Residual
from .config import WanS2VConfig
from .speakers import Hearers

ADALN_EPS = 1e-5  # unlike every other norm of the model


class CausalConv(nn.Module):
    """Convolution over time that sees no future: the left edge is padded with copies of the first sample."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None
    ):
        super().__init__()
        self.conv = operations.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride, dtype=dtype, device=device)

    def forward(self, x: Tensor, cast: CastWeights = cast_weights) -> Tensor:
        """[B, T, C_in] -> [B, ceil(T / stride), C_out]."""
        x = F.pad(x.transpose(1, 2), (2, 0), mode="replicate")
        return run_as_input(self.conv, x, cast).transpose(1, 2)


class MotionAudioEncoder(nn.Module):
    """Features at 16 fps -> tokens per latent frame: a global one for AdaLN and several local ones for attention."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        dim = config.dim
        self.num_tokens = config.num_audio_tokens
        self.eps = config.eps
        self.conv1_local = CausalConv(config.audio_dim, dim // 4 * self.num_tokens, 1, **factory)
        self.conv1_global = CausalConv(config.audio_dim, dim // 4, 1, **factory)
        self.conv2 = CausalConv(dim // 4, dim // 2, 2, **factory)
        self.conv3 = CausalConv(dim // 2, dim, 2, **factory)
        self.final_linear = operations.Linear(dim, dim, dtype=dtype, device=device)
        self.padding_tokens = nn.Parameter(torch.empty(1, 1, 1, dim, dtype=dtype, device=device))

    def forward(self, x: Tensor, cast: CastWeights = cast_weights) -> tuple[Tensor, Tensor]:
        """[B, T, audio_dim] -> global [B, T/4, 1, dim] and local [B, T/4, num_tokens + 1, dim]."""
        batch = x.shape[0]
        local = self.conv1_local(x, cast).unflatten(2, (self.num_tokens, -1))
        local = local.transpose(1, 2).flatten(0, 1)  # [B, T, tokens * c] -> [B * tokens, T, c]
        local = self._downsample(local, cast).unflatten(0, (batch, -1)).transpose(1, 2)  # -> [B, T/4, tokens, dim]
        padding = self.padding_tokens.to(local).expand(batch, local.shape[1], 1, -1)
        whole = run_as_input(self.final_linear, self._downsample(self.conv1_global(x, cast), cast), cast)
        return whole.unsqueeze(2), torch.cat([local, padding], dim=2)

    def _downsample(self, x: Tensor, cast: CastWeights) -> Tensor:
        x = F.silu(layer_norm(x, self.eps))
        x = F.silu(layer_norm(self.conv2(x, cast), self.eps))
        return F.silu(layer_norm(self.conv3(x, cast), self.eps))


class CausalAudioEncoder(nn.Module):
    """Mixes the wav2vec2 layers, adds the context before the clip and encodes."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(1, config.num_audio_layers, 1, 1, dtype=dtype, device=device))
        self.encoder = MotionAudioEncoder(config, operations=operations, dtype=dtype, device=device)

    def forward(self, features: Tensor, cast: CastWeights = cast_weights, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode the features of one clip behind those of the 73 frames before it.

        Args:
            features: [B, layers, audio_dim, frames] at 16 fps.
            history: [B, layers, audio_dim, 73]; None repeats the first frame of the clip, as in the reference.
        Returns:
            Global [B, F, 1, dim] and local [B, F, num_tokens + 1, dim], float32, F = frames / 4.
        """
        whole, local = self.encode_padded(features, cast, history)
        return whole[:, MOTION_LATENTS:], local[:, MOTION_LATENTS:]

    def encode_padded(self, features: Tensor, cast: CastWeights = cast_weights, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Like forward, with the latents of the history still in front."""
        features = features.float()
        history = features[..., :1].expand(-1, -1, -1, MOTION_FRAMES) if history is None else history.float()
        features = torch.cat([history, features], dim=-1)
        weights = F.silu(self.weights.to(features))
        mixed = (features * weights).sum(dim=1) / weights.sum(dim=1)  # [B, L, C, T] -> [B, C, T]
        return self.encoder(mixed.transpose(1, 2), cast)


class InjectedAudio(NamedTuple):
    """What one injector makes of the sound of a clip, the same in every step.

    shift, scale: [B, F, 1, dim] float32. keys, values: [B * F, tokens, dim].
    """

    shift: Tensor
    scale: Tensor
    keys: Tensor
    values: Tensor


class Voice(NamedTuple):
    """A speaker of a clip.

    Attributes:
        sounds: one entry per injector. hearers: the video tokens that hear it; None for all of them.
    """

    sounds: Sequence[InjectedAudio]
    hearers: Hearers | None = None


class AdaLayerNorm(nn.Module):
    """What a frame's global audio token makes of the layer norm of that frame's tokens: a scale and a shift."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        self.linear = operations.Linear(config.dim, 2 * config.dim, dtype=dtype, device=device)

    def project(self, audio_global: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[B, F, 1, dim] audio -> shift and scale, each [B, F, 1, dim] float32."""
        shift, scale = self.linear(F.silu(audio_global).to(dtype)).float().chunk(2, dim=-1)
        return shift, scale


class AudioInjector(nn.Module):
    """After chosen blocks, lets every video token attend to the audio tokens of its own latent frame."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        count = len(config.audio_inject_layers)
        self.index_of_block = {block: index for index, block in enumerate(config.audio_inject_layers)}
        self.injector = nn.ModuleList(Attention(config, **factory) for _ in range(count))
        self.injector_adain_layers = nn.ModuleList(AdaLayerNorm(config, **factory) for _ in range(count))

    def project(
        self, audio_global: Tensor, audio_local: Tensor, dtype: torch.dtype, cast: CastWeights = cast_weights
    ) -> list[InjectedAudio]:
        """What every injector needs of the sound: global [B, F, 1, dim] and local [B, F, tokens, dim] tokens."""
        local = audio_local.to(dtype).flatten(0, 1)  # [B * F, tokens, dim]
        pairs = zip(self.injector_adain_layers, self.injector, strict=True)
        return [InjectedAudio(*norm.project(audio_global, dtype), *attention.project(local, cast=cast)) for norm, attention in pairs]  # type: ignore

    @torch.compiler.disable(recursive=False)  # which injector is used depends on the block
    def forward(self, stream: Residual, block_index: int, voices: Sequence[Voice], compute: Compute) -> Residual:
        """Add the audio attention of block `block_index` to the video tokens of the stream [B, S, dim]; returns the stream.

        A token that hears several voices gets the weighted sum of what it would get of each alone.
        """
        index = self.index_of_block.get(block_index)
        if index is None or not voices:
            return stream
        heard = [(voice.hearers, self._hear(stream, index, voice, compute)) for voice in voices]
        video = stream.owned()[:, : stream.split]
        for hearers, y in heard:
            if hearers is None:
                add_gated(video, y.reshape(video.shape), None, stream.split, out=video)
            else:
                video.index_add_(1, hearers.rows, y.reshape(video.shape[0], -1, video.shape[2]).to(video.dtype) * hearers.weights.to(video))
        return stream

    def _hear(self, stream: Residual, index: int, voice: Voice, compute: Compute) -> Tensor:
        """What the tokens that hear a voice get of it: [B * F, tokens of a frame, dim]."""
        sound = voice.sounds[index]
        query = _norm(stream, sound, voice.hearers, compute.linears.input_dtype(sound.keys.dtype))
        query = query.unflatten(1, (sound.shift.shape[1], -1)).flatten(0, 1)  # [B, F * n, dim] -> [B * F, n, dim]
        injector = cast_type(Attention, self.injector[index])
        if products_work(stream.x.device) and not compute.is_overridden and not is_changed(injector.o):
            return injector.few_key_attention(query, sound.keys, sound.values, compute)
        return injector(query, (sound.keys, sound.values), compute)


def _norm(stream: Residual, sound: InjectedAudio, hearers: Hearers | None, dtype: torch.dtype) -> Activation:
    """Norm of the video tokens that hear a sound, frame by frame, as its global token wants it: [B, F * n, dim]."""
    shift, scale = sound.shift[:, :, 0], sound.scale[:, :, 0]  # [B, F, dim]
    if hearers is None:
        return stream.norm_video(shift, scale, ADALN_EPS, dtype)
    x = stream.summed().index_select(1, hearers.rows)
    return modulated_norm(x, shift, scale, len(hearers.rows) // shift.shape[1], ADALN_EPS, dtype)

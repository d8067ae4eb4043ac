"""The Wan2.2-S2V diffusion transformer, with the module names of the official checkpoint.

Source of the algorithm: Wan-Video/Wan2.2 (Apache-2.0), written anew. Differences from the reference:
rotary tables are real-valued float32 and shared by all heads; attention runs densely through an injected kernel;
motion tokens are not computed where they would be dropped; block indices are matched exactly.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import MOTION_FRAMES, PATCH_SIZE, TEMPORAL_STRIDE
from ..kernels.casting import CastWeights, cast_weights, run_as_input
from .audio_injector import AudioInjector, CausalAudioEncoder, Voice
from .blocks import Attention, Block, Compute, Head, Prompt, Residual
from .config import WanS2VConfig
from .rope import rope_table, token_positions
from .shards import Part, Shards, Team
from .speakers import Regions
from .tokens import MotionPacker, embed_patches, unpatchify

CPU = torch.device("cpu")
HAVE_FLOAT64 = {"cpu", "cuda"}  # types of devices
VIDEO_ROW, REFERENCE_ROW, MOTION_ROW = range(3)  # rows of the learned mask embedding


@dataclass(frozen=True)
class Conditions:
    """What a model call is told beside the noisy latents [B, 16, F, h, w] and their noise level.

    Attributes:
        context: [B, L <= 512, text_dim] text embeddings, not padded or padded with zeros.
        ref_latents: [B, 16, 1, h, w].
        audio_embedding: [B, layers, audio_dim, 4F] features at 16 fps; None runs without audio attention. With 73 more behind them,
            those are of the frames before the clip; otherwise its first one repeats there. With regions [B, speakers, layers, ...].
        motion_latents: [B, 16, <= 19, h, w], oldest first; None in a first clip.
        pose_latents: [B, 16, F, h, w]; None means no pose, which equals zeros.
        audio_strength: 1 hears the sound, 0 silence; in between and beyond their audio tokens are mixed.
        regions: who hears which speaker, for the whole batch; None where there is one, whom all hear.
    """

    context: Tensor
    ref_latents: Tensor
    audio_embedding: Tensor | None = None
    motion_latents: Tensor | None = None
    pose_latents: Tensor | None = None
    audio_strength: float = 1.0
    regions: Regions | None = None


@dataclass(frozen=True)
class ClipConstants:
    """What is the same in every step of a clip.

    Attributes:
        rope: cos and sin, each [S, head_dim // 2]. context: [B, 512, dim], the projected prompt.
        text: keys and values of the prompt for each block, each [B, 512, dim].
        voices: the speakers, whom all video tokens hear or those of `Conditions.regions`; none without sound.
    """

    rope: tuple[Tensor, Tensor]
    context: Tensor
    text: list[tuple[Tensor, Tensor]]
    voices: list[Voice]


class SharedSelfAttention:
    """Keeps the latest output for as long as its inputs stay the same; one for each device, since several may work at once."""

    def __init__(self) -> None:
        self._kept: dict[object, tuple[list[Tensor | None], Tensor]] = {}

    def __call__(self, inputs: Sequence[Tensor | None], compute: Callable[[int], Tensor], place: object = None) -> Tensor:
        """Return the kept output, or compute it; once for a batch whose entries are alike.

        Args:
            inputs: all that decides the output beside the weights, each [B, ...]; the first is never None.
            compute: the output of the first so many entries of the batch.
            place: which part of the tokens it is of, where several GPUs share them.
        Returns:
            [B, S, dim]; entries may share memory.
        """
        x = inputs[0]
        assert x is not None
        first = [None if tensor is None else tensor[:1] for tensor in inputs]
        if len(x) > 1 and not _are_equal(inputs, [None if row is None else row.expand(len(x), *row.shape[1:]) for row in first]):
            return compute(len(x))
        key = x.device, place
        known, output = self._kept.get(key, ([], x))
        if not _are_equal(first, known):
            self._kept.pop(key, None)  # before the next one takes memory
            output = compute(1)
            self._kept[key] = [None if row is None else row.clone() for row in first], output
        return output.expand(len(x), -1, -1)


def _are_equal(some: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> bool:
    return len(some) == len(others) and all(
        a is b or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)) for a, b in zip(some, others, strict=True)
    )


class WanS2VTransformer(nn.Module):
    """Predicts the flow velocity of one clip.

    Args:
        operations: namespace with Linear, Conv1d, Conv3d, LayerNorm, RMSNorm and Embedding (`torch.nn` or ComfyUI's).
        residual_dtype: dtype of the residual stream between blocks; None keeps the compute dtype.
    """

    def __init__(
        self,
        config: WanS2VConfig,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: Any = None,
        residual_dtype: torch.dtype | None = torch.float32,
    ):
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.residual_dtype = residual_dtype
        layer = {"dtype": dtype, "device": device}
        module = {"operations": operations, **layer}
        dim = config.dim
        patch_volume = PATCH_SIZE[0] * PATCH_SIZE[1] * PATCH_SIZE[2]

        self.patch_embedding = operations.Conv3d(config.in_channels, dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE, **layer)
        self.cond_encoder = operations.Conv3d(config.cond_channels, dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE, **layer)
        self.frame_packer = MotionPacker(config, **module)
        self.trainable_cond_mask = operations.Embedding(3, dim, **layer)
        self.text_embedding = nn.Sequential(
            operations.Linear(config.text_dim, dim, **layer), nn.GELU(approximate="tanh"), operations.Linear(dim, dim, **layer)
        )
        self.time_embedding = nn.Sequential(
            operations.Linear(config.freq_dim, dim, **layer), nn.SiLU(), operations.Linear(dim, dim, **layer)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(dim, 6 * dim, **layer))
        self.casual_audio_encoder = CausalAudioEncoder(config, **module)
        self.audio_injector = AudioInjector(config, **module)
        self.blocks = nn.ModuleList(Block(config, **module) for _ in range(config.num_layers))
        self.head = Head(config, patch_volume, **module)

    @torch.compiler.disable(recursive=False)  # torch.compile then sees the blocks one by one: one graph for all, not one for each
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        compute: Compute | None = None,
        *,
        remember: Callable[[Callable[[], ClipConstants]], ClipConstants] = lambda build: build(),
        next_block: Callable[[], None] = lambda: None,
        shared_attention: SharedSelfAttention | None = None,
        team: Team | None = None,
    ) -> Tensor:
        """Predict the velocity (noise - sample).

        Args:
            x: [B, 16, F, h, w] noisy latents; their dtype is the compute dtype.
            timestep: [B] on the 0..1000 scale.
            remember: called with a function that computes what is the same in every step of a clip; may return an earlier result.
            next_block: called before each block and after the last one, for weights that are fetched just in time.
            shared_attention: shares the self attention of the first block between calls that differ in prompt and sound only.
            team: others that make the same call at the same time, each for a part of the tokens. All get the whole result.
        Returns:
            [B, 16, F, h, w] float32.
        """
        compute = compute or Compute()
        cast = compute.cast
        tokens, split = self.embed_tokens(x, conditions, cast)
        constants = remember(lambda: self.clip_constants(x, conditions, cast))
        e_head, e = self.embed_time(timestep, cast, x.device)
        part = None if team is None else Part(team, Shards.of_clip(x.shape[2], split, tokens.shape[1], team.shares), x.device)
        if part is not None:
            tokens, constants, split = tokens[:, part.rows], _of_part(part, constants), part.split
            compute = replace(compute, part=part)
        voices = heard_voices(constants.voices, conditions.regions, part, x.device)
        stream = Residual(tokens.to(self.residual_dtype or x.dtype), split, is_own=True)
        del tokens  # would take memory up to the end
        options = compute.transformer_options
        options["total_blocks"] = len(self.blocks)
        options["block_type"] = "double"
        for index, block in enumerate(self._blocks()):
            options["block_index"] = index
            next_block()
            attended = None
            if index == 0 and shared_attention is not None:
                inputs = x, timestep, conditions.ref_latents, conditions.motion_latents, conditions.pose_latents
                attended = shared_attention(inputs, partial(_attend, block, stream, e, constants, compute), part and part.place)
            stream = _run_block(block, index, stream, e, constants, compute, attended)
            stream = self.audio_injector(stream, index, voices, compute)
        next_block()
        patches = self.head(stream.summed()[:, :split], e_head, cast)
        return unpatchify(patches if part is None else part.gather_video(patches), *x.shape[2:])

    def layers_of_step(self, index: int) -> nn.ModuleList:
        """The layers that every step runs in block `index` and the audio injector behind it; the others work once per clip."""
        block = cast_type(Block, self.blocks[index])
        attentions = [block.cross_attn]
        if index in self.audio_injector.index_of_block:
            attentions.append(cast_type(Attention, self.audio_injector.injector[self.audio_injector.index_of_block[index]]))
        queries = [layer for attention in attentions for layer in (attention.q, attention.norm_q, attention.o)]
        return nn.ModuleList([block.self_attn, *queries, block.norm3, block.ffn])

    def _blocks(self) -> Iterator[Block]:
        return (cast_type(Block, block) for block in self.blocks)

    @torch.compiler.disable  # once per clip: compiling it would take longer than running it
    def clip_constants(self, x: Tensor, conditions: Conditions, cast: CastWeights = cast_weights) -> ClipConstants:
        """Compute what is the same in every step of a clip; a fifth of all weights is needed only here."""
        num_latent_frames, height, width = x.shape[2:]
        positions = token_positions(num_latent_frames, height, width, conditions.motion_latents is not None)
        context = self.embed_text(conditions.context.to(x.dtype))
        return ClipConstants(
            rope=rope_table(positions, self.config.head_dim, x.device),
            context=context,
            text=[block.project_text(context, cast) for block in self._blocks()],
            voices=self.voices(conditions, num_latent_frames, x.dtype, cast),
        )

    def voices(self, conditions: Conditions, num_latent_frames: int, dtype: torch.dtype, cast: CastWeights = cast_weights) -> list[Voice]:
        """What the injectors need of the sound of each speaker; nobody is told yet whom to hear."""
        features = conditions.audio_embedding
        if features is None:
            return []
        num_frames = TEMPORAL_STRIDE * num_latent_frames
        voices = []
        for sound in [features] if conditions.regions is None else features.unbind(1):  # [B, layers, audio_dim, frames]
            history = sound[..., num_frames:] if sound.shape[-1] == num_frames + MOTION_FRAMES else None
            whole, local = self.embed_audio(sound[..., :num_frames], conditions.audio_strength, cast, history)
            voices.append(Voice(self.audio_injector.project(whole, local, dtype, cast)))
        return voices

    def embed_audio(
        self, features: Tensor, strength: float, cast: CastWeights = cast_weights, history: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Audio tokens, mixed with those of silence: the encoder's norms would undo any scaling of the features in front of it.

        Args:
            features: [B, layers, audio_dim, frames] at 16 fps. strength: 0 is silence (features of zero), 1 the sound.
            history: [B, layers, audio_dim, 73] before them, or None.
        Returns:
            As `CausalAudioEncoder`.
        """
        whole, local = self.casual_audio_encoder(features, cast, history)
        if strength == 1:
            return whole, local
        silent_whole, silent_local = self.casual_audio_encoder(torch.zeros_like(features), cast)
        return torch.lerp(silent_whole, whole, strength), torch.lerp(silent_local, local, strength)

    def embed_tokens(self, x: Tensor, conditions: Conditions, cast: CastWeights = cast_weights) -> tuple[Tensor, int]:
        """Build the token sequence: video (with pose), reference, motion, each with its mask embedding.

        Returns:
            [B, S, dim] tokens and the number of video tokens.
        """
        video = self.embed_video(x, conditions.pose_latents, cast)
        return torch.cat(
            [video, self.embed_stills(conditions.ref_latents.to(x.dtype), conditions.motion_latents, cast)], dim=1
        ), video.shape[1]

    def embed_video(self, x: Tensor, pose_latents: Tensor | None, cast: CastWeights = cast_weights) -> Tensor:
        """[B, 16, F, h, w] noisy latents and their pose -> [B, F * n, dim] tokens."""
        pose_latents = torch.zeros_like(x) if pose_latents is None else pose_latents.to(x.dtype)
        video = embed_patches(self.patch_embedding, x, cast) + embed_patches(self.cond_encoder, pose_latents, cast)
        return video + self._mask_rows(x)[VIDEO_ROW]

    def embed_stills(self, ref_latents: Tensor, motion_latents: Tensor | None, cast: CastWeights = cast_weights) -> Tensor:
        """Tokens of the reference [B, 16, 1, h, w] and of the motion [B, 16, <= 19, h, w], in the dtype of the reference: [B, S, dim]."""
        mask = self._mask_rows(ref_latents)
        reference = embed_patches(self.patch_embedding, ref_latents, cast) + mask[REFERENCE_ROW]
        if motion_latents is None:
            return reference
        return torch.cat([reference, self.frame_packer(motion_latents.to(ref_latents.dtype), cast) + mask[MOTION_ROW]], dim=1)

    def _mask_rows(self, x: Tensor) -> Tensor:
        return self.trainable_cond_mask(torch.arange(3, device=x.device)).to(x.dtype)  # [3, dim]

    def embed_time(self, timestep: Tensor, cast: CastWeights = cast_weights, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Time embeddings in float32; reference and motion tokens are always at timestep 0.

        Args:
            timestep: [B]. device: of the result; by default that of `timestep`.
        Returns:
            [B, dim] for the head and [B, 6, 2, dim] for the blocks (last but one axis: video, other tokens).
        """
        both = torch.stack([timestep, torch.zeros_like(timestep)], dim=1).flatten()  # [B] -> [2B]
        e = timestep_embedding(both, self.config.freq_dim).to(device or timestep.device)
        e = run_as_input(self.time_embedding[2], F.silu(run_as_input(self.time_embedding[0], e, cast)), cast)
        projected = run_as_input(self.time_projection[1], F.silu(e), cast)
        projected = projected.reshape(-1, 2, 6, self.config.dim).transpose(1, 2)  # [2B, 6 * D] -> [B, 6, 2, D]
        return e.reshape(-1, 2, self.config.dim)[:, 0], projected

    def embed_text(self, context: Tensor) -> Tensor:
        """Pad to 512 rows and project: [B, L, text_dim] -> [B, 512, dim]. Padding rows are attended to, as in training."""
        missing = max(0, self.config.text_len - context.shape[1])
        return self.text_embedding(F.pad(context, (0, 0, 0, missing)))


def timestep_embedding(timesteps: Tensor, freq_dim: int) -> Tensor:
    """Sinusoid of the timestep, cosines first, in float64.

    Computed where the timesteps are, so that nobody waits for that device; on the CPU where it has no such type.

    Args:
        timesteps: [B] on the 0..1000 scale.
    Returns:
        [B, freq_dim] float32.
    """
    device = timesteps.device if timesteps.device.type in HAVE_FLOAT64 else CPU
    angle = timesteps.to(device).double()[:, None] * _frequencies(freq_dim // 2, device)
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


@lru_cache(maxsize=16)
def _frequencies(count: int, device: torch.device) -> Tensor:
    """[count] float64, computed on the CPU for every device."""
    return torch.exp(-math.log(10_000) * torch.arange(count, dtype=torch.float64) / count).to(device)


def _of_part(part: Part, constants: ClipConstants) -> ClipConstants:
    cos, sin = constants.rope
    return replace(constants, rope=(cos[part.rows], sin[part.rows]))


def heard_voices(voices: list[Voice], regions: Regions | None, part: Part | None, device: torch.device) -> list[Voice]:
    """Each speaker with those who hear it."""
    if regions is None:
        return voices
    pairs = zip(voices, regions.hearers(device, part), strict=True)
    return [voice._replace(hearers=hearers) for voice, hearers in pairs if hearers is None or len(hearers.rows)]


def _attend(block: Block, stream: Residual, e: Tensor, constants: ClipConstants, compute: Compute, batch: int) -> Tensor:
    """Self attention of the first block, for the first entries of a batch."""
    return block.attend(Residual(stream.x[:batch], stream.split), e[:batch], constants.rope, constants.context.dtype, compute)


@torch.compiler.disable(recursive=False)
def _run_block(
    block: Block, index: int, stream: Residual, e: Tensor, constants: ClipConstants, compute: Compute, attended: Tensor | None
) -> Residual:
    """Run one block, through the replacements and patches that other nodes may have put on the model."""
    options = compute.transformer_options
    run = options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
    patches = options.get("patches", {}).get("double_block", [])
    keys, values = (kept.to(e.device, non_blocking=True) for kept in constants.text[index])
    text = Prompt(keys, values, constants.context)
    if not run and not patches:
        is_last = index == len(constants.text) - 1  # the head looks at the video only
        return block(stream, e, text, constants.rope, compute, only_video=is_last, attended=attended)

    def original(args: dict[str, Any]) -> dict[str, Tensor]:
        context = args["txt"]
        given = text if context is constants.context else Prompt(*block.project_text(context, compute.cast), context)
        inner = replace(compute, transformer_options=args["transformer_options"])
        return {"img": block(Residual(args["img"], stream.split), args["vec"], given, args["pe"], inner, attended=attended).summed()}

    args = {"img": stream.summed(), "txt": constants.context, "vec": e, "pe": constants.rope, "transformer_options": options}
    tokens = (original(args) if run is None else run(args, {"original_block": original}))["img"]
    for patch in patches:
        tokens = patch({"img": tokens, "vec": e, "block_index": index, "img_offset": 0, "transformer_options": options})["img"]
    return Residual(tokens.clone(), stream.split, is_own=True)  # a hook may keep what it returned


def share_layers(transformer: nn.Module, native: nn.Module) -> None:
    """Replace every parameter-holding module of our transformer by the native one of the same name."""
    for path, module in list(transformer.named_modules()):
        if not module._parameters:
            continue
        twin = native.get_submodule(path)
        if next(module.children(), None) is None:
            parent, _, name = path.rpartition(".")
            transformer.get_submodule(parent)._modules[name] = twin
        else:
            for name in module._parameters:
                module._parameters[name] = twin._parameters[name]

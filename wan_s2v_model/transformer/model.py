"""The Wan2.2-S2V diffusion transformer, with the module names of the official checkpoint.

Source of the algorithm: Wan-Video/Wan2.2 (Apache-2.0), written anew. Differences from the reference:
rotary tables are real-valued float32 and shared by all heads; attention runs densely through an injected kernel;
motion tokens are not computed where they would be dropped; block indices are matched exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..constants import MOTION_FRAMES, PATCH_SIZE, TEMPORAL_STRIDE
from ..kernels.casting import CastWeights, cast_weights, run_as_input
from ..kernels.linears import EXACT, Linears
from .attention import Attention, AttentionFunction, FirstAttention, sdpa
from .audio_injector import AudioInjector, CausalAudioEncoder, InjectedAudio
from .blocks import Block, Head, timestep_embedding
from .config import WanS2VConfig
from .residual import Residual
from .rope import rope_table, token_positions
from .tokens import MotionPacker, embed_patches, unpatchify

VIDEO_ROW, REFERENCE_ROW, MOTION_ROW = range(3)  # rows of the learned mask embedding


@dataclass(frozen=True)
class ClipConstants:
    """What is the same in every step of a clip.

    Attributes:
        rope: cos and sin, each [S, head_dim // 2]. context: [B, 512, dim], the projected prompt.
        text: keys and values of the prompt for each block, each [B, 512, dim].
        audio: one entry per injector, or None without sound.
    """

    rope: tuple[Tensor, Tensor]
    context: Tensor
    text: list[tuple[Tensor, Tensor]]
    audio: list[InjectedAudio] | None


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
    def forward(  # noqa: PLR0913
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        *,
        audio_embedding: Tensor | None,
        ref_latents: Tensor,
        motion_latents: Tensor | None = None,
        pose_latents: Tensor | None = None,
        audio_strength: float = 1.0,
        attention: AttentionFunction = sdpa,
        transformer_options: dict[str, Any] | None = None,
        cast: CastWeights = cast_weights,
        remember: Callable[[Callable[[], ClipConstants]], ClipConstants] = lambda build: build(),
        next_block: Callable[[], None] = lambda: None,
        linears: Linears = EXACT,
        first_attention: FirstAttention | None = None,
    ) -> Tensor:
        """Predict the velocity (noise - sample).

        Args:
            x: [B, 16, F, h, w] noisy latents; their dtype is the compute dtype.
            timestep: [B] on the 0..1000 scale.
            context: [B, L <= 512, text_dim] text embeddings, not padded or padded with zeros.
            audio_embedding: [B, layers, audio_dim, 4F] features at 16 fps; None runs without audio attention. With 73 more behind them,
                those are of the frames before the clip; otherwise its first one repeats there.
            ref_latents: [B, 16, 1, h, w]. motion_latents: [B, 16, <= 19, h, w], oldest first; None in a first clip.
            pose_latents: [B, 16, F, h, w]; None means no pose, which equals zeros.
            audio_strength: 1 hears the sound, 0 silence; in between and beyond their audio tokens are mixed.
            remember: called with a function that computes what is the same in every step of a clip; may return an earlier result.
            next_block: called before each block and after the last one, for weights that are fetched just in time.
            linears: computes the products of all blocks and audio injectors.
            first_attention: shares the self attention of the first block between calls that differ in prompt and sound only.
        Returns:
            [B, 16, F, h, w] float32.
        """
        options = {} if transformer_options is None else transformer_options
        num_latent_frames, height, width = x.shape[2:]
        tokens, split = self.embed_tokens(x, ref_latents, motion_latents, pose_latents, cast)
        constants = remember(lambda: self.clip_constants(x, context, audio_embedding, motion_latents is not None, cast, audio_strength))
        e_head, e = self.embed_time(timestep, cast)
        stream = Residual(tokens.to(self.residual_dtype or x.dtype), split, is_own=True)
        del tokens  # would take memory up to the end
        kernel: dict[str, Any] = {"attention": attention, "transformer_options": options, "cast": cast, "linears": linears}
        options["total_blocks"] = len(self.blocks)
        options["block_type"] = "double"
        for index, block in enumerate(self._blocks()):
            options["block_index"] = index
            next_block()
            attended = None
            if index == 0 and first_attention is not None:
                inputs = x, timestep, ref_latents, motion_latents, pose_latents
                attended = first_attention(inputs, partial(_attend, block, stream, e, constants, kernel))
            stream = _run_block(block, index, stream, e, constants, {**kernel, "attended": attended})
            if constants.audio is not None:
                stream = self.audio_injector(stream, index, constants.audio, **kernel)
        next_block()
        return unpatchify(self.head(stream.summed()[:, :split], e_head, cast), num_latent_frames, height, width)

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
    def clip_constants(
        self,
        x: Tensor,
        context: Tensor,
        audio_embedding: Tensor | None,
        with_motion: bool,
        cast: CastWeights = cast_weights,
        audio_strength: float = 1.0,
    ) -> ClipConstants:
        """Compute what is the same in every step of a clip; a fifth of all weights is needed only here."""
        num_latent_frames, height, width = x.shape[2:]
        positions = token_positions(num_latent_frames, height, width, with_motion).to(x.device)
        context = self.embed_text(context.to(x.dtype))
        audio = None
        if audio_embedding is not None:
            num_frames = TEMPORAL_STRIDE * num_latent_frames
            history = audio_embedding[..., num_frames:] if audio_embedding.shape[-1] == num_frames + MOTION_FRAMES else None
            whole, local = self.embed_audio(audio_embedding[..., :num_frames], audio_strength, cast, history)
            audio = self.audio_injector.project(whole, local, x.dtype, cast)
        return ClipConstants(
            rope=rope_table(positions, self.config.head_dim),
            context=context,
            text=[block.project_text(context, cast) for block in self._blocks()],
            audio=audio,
        )

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

    def embed_tokens(
        self, x: Tensor, ref_latents: Tensor, motion_latents: Tensor | None, pose_latents: Tensor | None, cast: CastWeights = cast_weights
    ) -> tuple[Tensor, int]:
        """Build the token sequence: video (with pose), reference, motion, each with its mask embedding.

        Returns:
            [B, S, dim] tokens and the number of video tokens.
        """
        mask = self.trainable_cond_mask(torch.arange(3, device=x.device)).to(x.dtype)  # [3, dim]
        pose_latents = torch.zeros_like(x) if pose_latents is None else pose_latents.to(x.dtype)
        video = embed_patches(self.patch_embedding, x, cast) + embed_patches(self.cond_encoder, pose_latents, cast)
        reference = embed_patches(self.patch_embedding, ref_latents.to(x.dtype), cast)
        sequence = [video + mask[VIDEO_ROW], reference + mask[REFERENCE_ROW]]
        if motion_latents is not None:
            sequence.append(self.frame_packer(motion_latents.to(x.dtype), cast) + mask[MOTION_ROW])
        return torch.cat(sequence, dim=1), video.shape[1]

    def embed_time(self, timestep: Tensor, cast: CastWeights = cast_weights) -> tuple[Tensor, Tensor]:
        """Time embeddings in float32; reference and motion tokens are always at timestep 0.

        Args:
            timestep: [B].
        Returns:
            [B, dim] for the head and [B, 6, 2, dim] for the blocks (last but one axis: video, other tokens).
        """
        both = torch.stack([timestep, torch.zeros_like(timestep)], dim=1).flatten()  # [B] -> [2B]
        e = timestep_embedding(both, self.config.freq_dim)
        e = run_as_input(self.time_embedding[2], F.silu(run_as_input(self.time_embedding[0], e, cast)), cast)
        projected = run_as_input(self.time_projection[1], F.silu(e), cast)
        projected = projected.reshape(-1, 2, 6, self.config.dim).transpose(1, 2)  # [2B, 6 * D] -> [B, 6, 2, D]
        return e.reshape(-1, 2, self.config.dim)[:, 0], projected

    def embed_text(self, context: Tensor) -> Tensor:
        """Pad to 512 rows and project: [B, L, text_dim] -> [B, 512, dim]. Padding rows are attended to, as in training."""
        missing = max(0, self.config.text_len - context.shape[1])
        return self.text_embedding(F.pad(context, (0, 0, 0, missing)))


def _attend(block: Block, stream: Residual, e: Tensor, constants: ClipConstants, kernel: dict[str, Any], batch: int) -> Tensor:
    """Self attention of the first block, for the first entries of a batch."""
    return block.attend(Residual(stream.x[:batch], stream.split), e[:batch], constants.rope, constants.context.dtype, **kernel)


@torch.compiler.disable(recursive=False)
def _run_block(block: Block, index: int, stream: Residual, e: Tensor, constants: ClipConstants, kernel: dict[str, Any]) -> Residual:
    """Run one block, through the block replacements and patches that other nodes may have put on the model."""
    options = kernel["transformer_options"]
    run = options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
    patches = options.get("patches", {}).get("double_block", [])
    known = constants.text[index]
    text = known[0].to(e.device, non_blocking=True), known[1].to(e.device, non_blocking=True)
    if not run and not patches:
        is_last = index == len(constants.text) - 1  # the head looks at the video only
        return block(stream, e, text, constants.rope, only_video=is_last, **kernel)

    def original(args: dict[str, Any]) -> dict[str, Tensor]:
        given = text if args["txt"] is constants.context else block.project_text(args["txt"], kernel["cast"])
        inner = {**kernel, "transformer_options": args["transformer_options"]}
        return {"img": block(Residual(args["img"], stream.split), args["vec"], given, args["pe"], **inner).summed()}

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

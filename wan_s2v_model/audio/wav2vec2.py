"""The forward of transformers' Wav2Vec2Model, layer by layer, in memory that hardly grows with the sound.

Whatever is local runs on pieces: the convolutional front end, the positional convolution and everything of a layer that works on rows.
Only the keys and values of one layer are held for the whole sound, and no mask and no scores.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..media.sound import pieces

FRONT_PIECE = 512  # frames that pass the convolutional front end at once: 10 s
ROW_PIECE = 2048  # frames of a layer that ask at once: 41 s
WINDOW_FRAMES = 15_000  # frames that share their keys and values where those of the whole sound do not fit: 5 minutes
CONTEXT_FRAMES = 15_000  # frames before and behind such a window that its frames hear: 5 minutes each
FRONT_COPIES = 3  # of the widest activation of the front end: convolved, normalised, activated
ROW_COPIES = 5  # of the rows of a piece, beside their two of the feed-forward
Report = Callable[[float], None]  # called after each piece with the share that is done, 0 to 1


def ignore(share: float) -> None:
    """A report that nobody reads."""


@torch.no_grad()
def hidden_layers(wav2vec2: Any, waveform: Tensor, context: int | None = None, report: Report = ignore) -> Iterator[Tensor]:
    """All hidden states of a Wav2Vec2Model, one after the other.

    The first is the input of layer 1; the last one is taken behind the encoder's final layer norm.

    Args:
        waveform: [T] normalised, at 16 kHz, on the model's device and in its dtype.
        context: frames before and behind a window of 5 minutes that it hears; None is the whole sound, as in the reference.
    Yields:
        layers + 1 times [frames, channels]; the memory is overwritten when the next one is asked for. With a context it is main memory.
    """
    encoder, layers = wav2vec2.encoder, wav2vec2.encoder.layers
    is_stable = wav2vec2.config.do_stable_layer_norm
    first = 1 / (len(layers) + 1)
    home = None if context is None else torch.device("cpu")
    hidden = _front_end(wav2vec2, waveform, home, lambda share: report(first * share / 2))
    norm = None if is_stable else encoder.layer_norm
    hidden = _with_positions(encoder, hidden, waveform.device, norm, lambda share: report(first * (1 + share) / 2))
    yield hidden[0]
    out = hidden if context is None else torch.empty_like(hidden)
    for index, layer in enumerate(layers):
        for rows in _run_layer(layer, hidden, out, waveform.device, is_stable, context):
            report((index + 1 + rows.stop / hidden.shape[1]) / (len(layers) + 1))
        hidden, out = out, hidden
        if is_stable and index == len(layers) - 1:
            _apply(encoder.layer_norm, hidden, waveform.device)
        yield hidden[0]


def working_bytes(config: Any, num_frames: int, value_bytes: int, context: int | None = None) -> int:
    """Memory of the device that `hidden_layers` needs beside the weights: the sound, hidden states, keys and values, and one piece.

    Args:
        config: a Wav2Vec2Config. value_bytes: size of a value.
    """
    held = num_frames if context is None else min(num_frames, WINDOW_FRAMES + 2 * context)
    front = min(num_frames, FRONT_PIECE) if config.feat_extract_norm == "layer" else num_frames
    front_end = held * config.hidden_size + FRONT_COPIES * front * prod(config.conv_stride[1:]) * config.conv_dim[0]
    row_values = 2 * config.intermediate_size + ROW_COPIES * config.hidden_size
    layer = 3 * held * config.hidden_size + min(held, ROW_PIECE) * row_values
    return value_bytes * (num_frames * prod(config.conv_stride) + max(front_end, layer))


def _front_end(wav2vec2: Any, waveform: Tensor, home: torch.device | None, report: Report) -> Tensor:
    """[T] -> [1, frames, channels]. A norm over channels is local; that of `group` models goes over all the sound at once."""
    window, hop = _reach(wav2vec2.config)
    num_frames = max(0, (waveform.shape[0] - window) // hop + 1)
    size = FRONT_PIECE if wav2vec2.config.feat_extract_norm == "layer" else num_frames
    hidden = waveform.new_empty(1, num_frames, wav2vec2.config.hidden_size, device=home)
    for rows in pieces(num_frames, size):
        end = None if rows.stop == num_frames else (rows.stop - 1) * hop + window
        heard = wav2vec2.feature_extractor(waveform[None, rows.start * hop : end])
        hidden[:, rows] = wav2vec2.feature_projection(heard.transpose(1, 2))[0]
        report(rows.stop / num_frames)
    return hidden


def _reach(config: Any) -> tuple[int, int]:
    """Samples under one frame, and between two."""
    window, hop = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        window += (kernel - 1) * hop
        hop *= stride
    return window, hop


def _with_positions(encoder: Any, hidden: Tensor, device: torch.device, norm: nn.Module | None, report: Report) -> Tensor:
    reach = encoder.pos_conv_embed.conv.kernel_size[0] // 2
    out = torch.empty_like(hidden)
    for rows in pieces(hidden.shape[1], ROW_PIECE):
        first = max(0, rows.start - reach)
        around = hidden[:, first : rows.stop + reach].to(device)
        summed = around + encoder.pos_conv_embed(around)
        own = summed[:, rows.start - first : rows.stop - first]
        out[:, rows] = own if norm is None else norm(own)
        report(rows.stop / hidden.shape[1])
    return out


def _run_layer(layer: Any, hidden: Tensor, out: Tensor, device: torch.device, is_stable: bool, context: int | None) -> Iterator[slice]:
    """Layer of [1, frames, channels] into `out`, which may be `hidden`; yields the rows that are done, none after a piece of keys."""
    num_frames = hidden.shape[1]
    for window in pieces(num_frames, num_frames if context is None else WINDOW_FRAMES):
        first = max(0, window.start - (context or 0))
        around = hidden[:, first : window.stop + (context or 0)].to(device)
        keys, values = torch.empty_like(around), torch.empty_like(around)
        for rows in pieces(around.shape[1], ROW_PIECE):
            asked = layer.layer_norm(around[:, rows]) if is_stable else around[:, rows]
            keys[:, rows], values[:, rows] = layer.attention.k_proj(asked), layer.attention.v_proj(asked)
            yield slice(window.start, window.start)
        keys, values = _heads(layer, keys), _heads(layer, values)
        for rows in pieces(window.stop, ROW_PIECE, window.start):
            out[:, rows] = _rows_of_layer(layer, around[:, rows.start - first : rows.stop - first], keys, values, is_stable)
            yield rows


def _heads(layer: Any, rows: Tensor) -> Tensor:
    """[1, frames, channels] -> [1, heads, frames, head_dim]."""
    return rows.unflatten(-1, (-1, layer.attention.head_dim)).transpose(1, 2)


def _rows_of_layer(layer: Any, hidden: Tensor, keys: Tensor, values: Tensor, is_stable: bool) -> Tensor:
    """One layer for some rows, [1, rows, channels]; the norms stand before (stable) or behind attention and feed-forward."""
    attention = layer.attention
    queries = _heads(layer, attention.q_proj(layer.layer_norm(hidden) if is_stable else hidden))
    heard = F.scaled_dot_product_attention(queries, keys, values, scale=attention.scaling)
    hidden = hidden + attention.out_proj(heard.transpose(1, 2).flatten(2))
    if not is_stable:
        hidden = layer.layer_norm(hidden)
        return layer.final_layer_norm(hidden + layer.feed_forward(hidden))
    hidden = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
    adapter = getattr(layer, "adapter_layer", None)
    return hidden if adapter is None else hidden + adapter(hidden)


def _apply(module: nn.Module, hidden: Tensor, device: torch.device) -> None:
    for rows in pieces(hidden.shape[1], ROW_PIECE):
        hidden[:, rows] = module(hidden[:, rows].to(device))

"""What the choices of the model loader make of one forward pass on a card, calculated from what its maker states."""

from __future__ import annotations

from ..transformer.config import S2V_14B
from .cards import BANDWIDTH_SHARE, ELEMENTWISE_BYTES, Card
from .estimate import model_flop, num_tokens

HEIGHT, WIDTH, NUM_LATENT_FRAMES = 60, 104, 20  # latents of a later clip of 832x480
EXACT, FP8, SAGE, BOTH = "exact", "fp8 linears", "sage", "fp8 linears, sage"
SAGE_GAIN = {"RTX 30": 1.9, "RTX 40": 2.6, "RTX 50": 3.0}  # its authors' charts: 134, 431 and 643 TFLOP/s; exact 70, 164 and 214
SCALES_BEHIND = "RTX 50"  # where the scales of fp8 are applied behind the product: each result is read and written once more
BYTES_BEHIND = 4  # of a value in bfloat16


def forward_seconds(card: Card) -> dict[str, float]:
    """Seconds of a forward pass by choice, of those that have an effect and a known gain on this card."""
    tokens = num_tokens(NUM_LATENT_FRAMES, HEIGHT, WIDTH, with_motion=True)
    video = NUM_LATENT_FRAMES * (HEIGHT // 2) * (WIDTH // 2)
    linear_flop, attention_flop = model_flop(S2V_14B, tokens, video)
    bandwidth = BANDWIDTH_SHARE * card.bandwidth
    between = linear_flop * ELEMENTWISE_BYTES / bandwidth
    linear = {EXACT: linear_flop / (card.reached.products * card.bf16)}
    if card.fp8:
        behind = _results(tokens) * BYTES_BEHIND / bandwidth if card.name.startswith(SCALES_BEHIND) else 0
        linear[FP8] = linear_flop / (card.reached.products * card.fp8) + behind
    attention = {EXACT: attention_flop / (card.reached.attention * card.bf16)}
    if gain := SAGE_GAIN.get(card.name[: len("RTX 30")]):
        attention[SAGE] = attention[EXACT] / gain
    return {_name(of_linear, of_attention): a + b + between for of_linear, a in linear.items() for of_attention, b in attention.items()}


def _name(linear: str, attention: str) -> str:
    return {(EXACT, EXACT): EXACT, (FP8, EXACT): FP8, (EXACT, SAGE): SAGE, (FP8, SAGE): BOTH}[linear, attention]


def _results(tokens: int) -> int:
    """Values that the large products of all blocks write."""
    return S2V_14B.num_layers * tokens * (7 * S2V_14B.dim + S2V_14B.ffn_dim)  # q, k, v, o, text q and o, second of the feed-forward; first

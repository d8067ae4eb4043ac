"""What the choices of the model loader make of one forward pass on a card, calculated from what its maker states."""

from __future__ import annotations

from ..transformer.config import S2V_14B
from .cards import BANDWIDTH_SHARE, Card, Modes, calculated_rates, sage_gain
from .estimate import model_flop, num_tokens

HEIGHT, WIDTH, NUM_LATENT_FRAMES = 60, 104, 20  # latents of a later clip of 832x480
EXACT, FP8, SAGE, BOTH = "exact", "fp8 linears", "sage", "fp8 linears, sage"
CHOICES = {EXACT: Modes(), FP8: Modes(float8_linears=True), SAGE: Modes(sage=True), BOTH: Modes(float8_linears=True, sage=True)}
SCALES_BEHIND = "RTX 50"  # where the scales of fp8 are applied behind the product: each result is read and written once more
BYTES_BEHIND = 4  # of a value in bfloat16


def forward_seconds(card: Card) -> dict[str, float]:
    """Seconds of a forward pass by choice, of those that have an effect and a known gain on this card."""
    tokens = num_tokens(NUM_LATENT_FRAMES, HEIGHT, WIDTH, with_motion=True)
    video = NUM_LATENT_FRAMES * (HEIGHT // 2) * (WIDTH // 2)
    linear_flop, attention_flop = model_flop(S2V_14B, tokens, video)
    seconds = {}
    for name, modes in CHOICES.items():
        if (card.fp8 or not modes.float8_linears) and (sage_gain(card) > 1 or not modes.sage):
            rates = calculated_rates(card, modes)
            seconds[name] = linear_flop / rates.linear + attention_flop / rates.attention
            if modes.float8_linears and card.name.startswith(SCALES_BEHIND):
                seconds[name] += _results(tokens) * BYTES_BEHIND / (BANDWIDTH_SHARE * card.bandwidth)
    return seconds


def _results(tokens: int) -> int:
    """Values that the large products of all blocks write."""
    return S2V_14B.num_layers * tokens * (7 * S2V_14B.dim + S2V_14B.ffn_dim)  # q, k, v, o, text q and o, second of the feed-forward; first

"""Common NVIDIA cards: what the maker states of them, and the speed at which they can be expected to run this model.

Stated are dense products of the tensor cores with sums in float32, and the memory's bandwidth. A GeForce card of the 30, 40 and 50 series
multiplies bf16 at twice the stated rate of its shaders (RTX 3090: 35.6 and 71.2 TFLOP/s), int8 at eight times, and fp8, from the 40
series on, at four times. Sources: the whitepapers GA102, Ada and Blackwell for GeForce, the data sheets of A100, L40S, H100 and H200.

How much of that a card reaches was measured on one H100 (docs/performance.md). GeForce cards come closer to what is stated of them: public
charts of FlashAttention 2 and SageAttention show 68 to 71 TFLOP/s of attention on an RTX 3090, 164 on a 4090 and 214 on a 5090.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .estimate import Rates

TERA, GIGA = 1e12, 1e9
BANDWIDTH_SHARE = 0.87  # of what is stated, reached by the fused kernels
ELEMENTWISE_BYTES = 4.65e-4  # read and written between the products, for each operation in them
CONVOLUTION_SHARE = {2: 0.216, 4: 0.165}  # of the stated bf16 rate, reached by the VAE; by the size of a value
CONVOLUTION_BYTES = {2: 0.9e-2, 4: 1.8e-2}  # read and written between its convolutions, for each operation in them
FLOAT8_SHARE = 0.89  # of the share of products in bf16
FLOAT8_ATTENTION_GAIN = 1.39  # of FlashAttention 3
SAGE_GAIN = {"RTX 30": 1.9, "RTX 40": 2.6, "RTX 50": 3.0}  # by its authors' charts: 134, 431 and 643 TFLOP/s; exact 70, 164 and 214
LINEAR_SHARE_ON_HOST, ATTENTION_SHARE_ON_HOST, VAE_SHARE_ON_HOST = 0.84, 0.85, 0.4  # of a large product


@dataclass(frozen=True)
class Reached:
    """Shares of the stated bf16 rate: of one large product, of the products of the linear layers, and of self attention."""

    large_product: float
    products: float
    attention: float


GEFORCE = Reached(large_product=0.93, products=0.9, attention=0.97)
DATA_CENTRE = Reached(large_product=0.793, products=0.744, attention=0.674)


@dataclass(frozen=True)
class Modes:
    """How the networks compute, as far as it decides the time.

    Attributes:
        vae_value_bytes: size of a value of the VAE, 2 or 4.
    """

    vae_value_bytes: int = 4
    float8_linears: bool = False
    float8_attention: bool = False
    sage: bool = False


EXACT = Modes()


@dataclass(frozen=True)
class Card:
    """A card as its maker states it.

    Attributes:
        name: short. devices: names under which its driver lists it. memory_bytes: on the card.
        bf16, fp8, int8: operations per second of the tensor cores, 0 where it cannot. bandwidth: bytes per second.
    """

    name: str
    devices: tuple[str, ...]
    memory_bytes: float
    bf16: float
    fp8: float
    int8: float
    bandwidth: float
    reached: Reached


def _geforce(name: str, memory_gb: float, shader_tflops: float, bandwidth_gb: float) -> Card:
    shaders = shader_tflops * TERA
    fp8 = 0.0 if name.startswith("RTX 30") else 4 * shaders
    device = f"NVIDIA GeForce {name}"
    return Card(name, (device,), memory_gb * GIGA, 2 * shaders, fp8, 8 * shaders, bandwidth_gb * GIGA, GEFORCE)


def _data_centre(name: str, devices: tuple[str, ...], memory_gb: float, tflops: tuple[float, float, float], bandwidth_gb: float) -> Card:
    bf16, fp8, int8 = (rate * TERA for rate in tflops)
    return Card(name, devices, memory_gb * GIGA, bf16, fp8, int8, bandwidth_gb * GIGA, DATA_CENTRE)


CARDS = (
    _geforce("RTX 3060", 12, 12.74, 360),
    _geforce("RTX 3080", 10, 29.77, 760),
    _geforce("RTX 3090", 24, 35.58, 936),
    _geforce("RTX 4060 Ti", 16, 22.06, 288),
    _geforce("RTX 4070", 12, 29.15, 504),
    _geforce("RTX 4080", 16, 48.74, 717),
    _geforce("RTX 4090", 24, 82.58, 1008),
    _geforce("RTX 5070 Ti", 16, 43.94, 896),
    _geforce("RTX 5080", 16, 56.28, 960),
    _geforce("RTX 5090", 32, 104.77, 1792),
    _data_centre("A100", ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"), 80, (312, 0, 624), 2039),
    _data_centre("L40S", ("NVIDIA L40S",), 48, (362, 733, 733), 864),
    _data_centre("H100", ("NVIDIA H100 80GB HBM3",), 80, (989, 1979, 1979), 3350),
    _data_centre("H200", ("NVIDIA H200",), 141, (989, 1979, 1979), 4800),
)
MEASURED = next(card for card in CARDS if card.name == "H100")


def find_card(device_name: str) -> Card | None:
    """The card that a driver lists under this name; None for one that is not in the table, such as a laptop's."""
    return next((card for card in CARDS if device_name in card.devices), None)


def calculated_rates(card: Card, modes: Modes = EXACT) -> Rates:
    """What a card on which nothing was measured can be expected to reach."""
    bandwidth = BANDWIDTH_SHARE * card.bandwidth
    products = FLOAT8_SHARE * card.fp8 if modes.float8_linears else card.bf16
    convolutions = CONVOLUTION_SHARE[modes.vae_value_bytes] * card.bf16
    gain = sage_gain(card) if modes.sage else FLOAT8_ATTENTION_GAIN if modes.float8_attention else 1
    return Rates(
        linear=_one_after_the_other(card.reached.products * products, bandwidth / ELEMENTWISE_BYTES),
        attention=card.reached.attention * card.bf16 * gain,
        vae=_one_after_the_other(convolutions, bandwidth / CONVOLUTION_BYTES[modes.vae_value_bytes]),
    )


def sage_gain(card: Card) -> float:
    """How much faster SageAttention is; 1 where nobody has said so."""
    return SAGE_GAIN.get(card.name[: len("RTX 30")], 1)


def measured_rates(device_name: str, product_rate: float, modes: Modes = EXACT) -> Rates:
    """What a device can be expected to reach, by the rate of a large product in 16 bits that was measured on it.

    One that is not in the table is taken for an H100 that is slower or faster in everything.
    """
    card = find_card(device_name)
    known = card or MEASURED
    speed = product_rate / (known.reached.large_product * known.bf16)
    bandwidth = known.bandwidth if card else speed * known.bandwidth
    return calculated_rates(replace(known, bf16=speed * known.bf16, fp8=speed * known.fp8, bandwidth=bandwidth), modes)


def host_rates(product_rate: float) -> Rates:
    """The same of a processor that computes in main memory."""
    shares = LINEAR_SHARE_ON_HOST, ATTENTION_SHARE_ON_HOST, VAE_SHARE_ON_HOST
    return Rates(*(share * product_rate for share in shares))


def _one_after_the_other(*rates: float) -> float:
    """Operations per second where each operation passes through all of these."""
    return 1 / sum(1 / rate for rate in rates)

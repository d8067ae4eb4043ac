"""How fast this card is, in two minutes and without any weights: one row for docs/cards.md.

    python bench/card.py                 with the Python that runs ComfyUI, in the pack's folder inside custom_nodes
    COMFYUI_PATH=... python bench/card.py
    python bench/card.py --calculated    the rows of cards on which nobody has measured
    python bench/card.py --tiny          (a trial on the CPU)

It times one block of the 14B model on random tokens of a later clip at 832x480, with every choice of the loader that has an effect here,
rows alternating, medians; a forward pass has 40 such blocks, and audio attention for 2 % more. Close other programs that use the GPU.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size
from fp8_layers import start

HEADER = (
    "| Card | GB | Driver, PyTorch, system | exact | fp8 linears | sage | both | bf16, TFLOP/s | fp8, TFLOP/s | GB/s | Attention |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
CHOICES = {"exact": ("exact", "auto"), "fp8 linears": ("fp8 linears", "auto"), "sage": ("exact", "sage"), "both": ("fp8 linears", "sage")}
TOKENS, VIDEO_TOKENS, TEXT_TOKENS = 35_074, 31_200, 512
TINY_TOKENS, TINY_VIDEO_TOKENS = 1_200, 1_000
ROUNDS, LONGEST_S = 5, 100
COPIED_BYTES = 2**30
DASH = "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny block, for a trial on the CPU")
    parser.add_argument("--calculated", action="store_true", help="print the calculated rows instead")
    arguments = parser.parse_args()
    find_comfyui()
    device = start()
    import torch

    if arguments.calculated:
        print("\n".join([HEADER, *calculated_rows()]))
        return

    torch.manual_seed(0)
    with torch.inference_mode():
        print("\n".join([HEADER, measured_row(device, arguments.tiny)]))


def find_comfyui() -> None:
    """ComfyUI is above the folder custom_nodes in which the pack lies, where no variable and no folder of the pack says otherwise."""
    if not (comfy_runtime.ROOT / ".comfyui").is_dir():
        os.environ.setdefault("COMFYUI_PATH", str(comfy_runtime.ROOT.parent.parent))


def calculated_rows() -> list[str]:
    """A row for each card of cost/cards.py."""
    from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS
    from wan_s2v_pack.wan_s2v_model.cost.choices import BOTH, EXACT, FP8, SAGE, forward_seconds

    rows = []
    for card in CARDS:
        seconds = forward_seconds(card)
        times = [f"{seconds[choice]:.1f}" if choice in seconds else DASH for choice in (EXACT, FP8, SAGE, BOTH)]
        rates = [f"{rate / 1e12:.0f}" if rate else DASH for rate in (card.bf16, card.fp8)]
        cells = [card.name, f"{card.memory_bytes / 1e9:.0f}", "*calculated*", *times, *rates, f"{card.bandwidth / 1e9:.0f}", ""]
        rows.append(row_of(cells))
    return rows


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def measured_row(device, tiny: bool) -> str:
    """The row of this machine; what it does meanwhile goes to stderr."""
    config = full_size.config(tiny)
    name, memory_gb, software = machine(device)
    choices = usable_choices(device)
    seconds = block_seconds(config, {choice: compute for choice, (compute, _) in choices.items()}, device, tiny)
    times = [f"{config.num_layers * seconds[choice]:.2f}" if choice in seconds else DASH for choice in CHOICES]
    attention = "; ".join(dict.fromkeys(words for _, words in choices.values()))
    return row_of([name, memory_gb, software, *times, *rates(device, tiny), attention])


def machine(device) -> tuple[str, str, str]:
    """Name, memory in GB, and software of the device."""
    import torch

    system = f"torch {torch.__version__}, {platform.system()}"
    if device.type != "cuda":
        return "CPU", DASH, system
    found = torch.cuda.get_device_properties(device)
    return found.name, f"{found.total_memory / 1e9:.0f}", f"{driver()}{system}"


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0] + ", "
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def usable_choices(device) -> dict[str, tuple[Any, str]]:
    """The choices of the loader that have an effect here: how each computes, and its attention in words."""
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import _with_error, choose_attention, pick_linears
    from wan_s2v_pack.wan_s2v_model.kernels.linears import EXACT, Float8Linears
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute

    found = {}
    for name, (speed, attention) in CHOICES.items():
        chosen, linears = choose_attention(attention, device), pick_linears(speed, device, torch.bfloat16)
        if (speed == "exact" or linears.rounding) and (attention == "auto" or chosen.error):
            plain = Float8Linears(torch.bfloat16) if linears.rounding else EXACT  # for layers that are not ComfyUI's
            found[name] = Compute(chosen.run, plain), _with_error(chosen)
    return found


def block_seconds(config, computes: dict[str, Any], device, tiny: bool) -> dict[str, float]:
    """Median seconds of a block by choice, the first round left out; a slow card gets fewer rounds."""
    run = block_on_random_tokens(config, device, tiny)
    times: dict[str, list[float]] = {name: [] for name in computes}
    begin = time.perf_counter()
    for index in range(ROUNDS + 1):
        for name, compute in computes.items():
            taken = timed(lambda compute=compute: run(compute), device)
            print(f"{name}: {1e3 * taken:.1f} ms", file=sys.stderr, flush=True)
            times[name] += [taken] if index else []
        if index and time.perf_counter() - begin > LONGEST_S:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def block_on_random_tokens(config, device, tiny: bool) -> Callable:
    """A function that runs a block with random weights on the tokens of a later clip, as `Compute` says."""
    import torch
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import Block, Prompt, Residual

    tokens, video = (TINY_TOKENS, TINY_VIDEO_TOKENS) if tiny else (TOKENS, VIDEO_TOKENS)
    dtype = torch.float16 if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0) else torch.bfloat16
    block = Block(config, operations=torch.nn, dtype=dtype, device=device)
    for parameter in block.parameters():
        noise = torch.randn_like(parameter)
        parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1 + 0.1 * noise)
    x, e = torch.randn(1, tokens, config.dim, device=device), torch.randn(1, 6, 2, config.dim, device=device) / 8
    context = torch.randn(1, TEXT_TOKENS, config.dim, device=device, dtype=dtype)
    text = Prompt(*block.project_text(context), context)
    angle = torch.randn(tokens, config.head_dim // 2, device=device)
    rope = angle.cos(), angle.sin()
    return lambda compute: block(Residual(x, video), e, text, rope, compute).summed()


def timed(run: Callable, device) -> float:
    import torch

    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def rates(device, tiny: bool) -> list[str]:
    """TFLOP/s of the widest product in bf16 and in fp8, and GB/s of a copy, read and written."""
    import torch
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.kernels.linears import float8_works, product, quantise_rows

    rows, width, out = (256, 128, 256) if tiny else (TOKENS // 2 + 1, 5120, 13_824)
    x, weight = (torch.randn(count, width, device=device).bfloat16() for count in (rows, out))
    flop = 2 * rows * width * out
    bf16 = flop / best(lambda: F.linear(x, weight), device) / 1e12
    fp8 = DASH
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9) and float8_works(device):
        tokens, columns = quantise_rows(x), quantise_rows(weight)
        fp8 = f"{flop / best(lambda: product(tokens, columns, None, torch.bfloat16), device) / 1e12:.0f}"
    memory = torch.empty(COPIED_BYTES // (64 if tiny else 1), dtype=torch.uint8, device=device)
    other = torch.empty_like(memory)
    return [f"{bf16:.0f}", fp8, f"{2 * len(memory) / best(lambda: other.copy_(memory), device) / 1e9:.0f}"]


def best(run: Callable, device) -> float:
    return min(timed(run, device) for _ in range(ROUNDS + 1))


if __name__ == "__main__":
    main()

"""What ComfyUI's `--fast fp16_accumulation` does to the products of the blocks: their error, and on a GPU their time.

    python bench/fp16_accumulation.py      # a minute on a CPU, where the sums are imitated; seconds on a GPU, where they are real

It lets tensor cores add the products of float16 numbers in float16. Products of bfloat16, float32, fp8 and int8 are not touched, so it
concerns models in fp16 only. The imitation rounds the sum to float16 after every 16 products, as one instruction adds them.
"""

import math

import torch

SHAPES = {"5120 -> 5120": (5120, 5120), "13824 -> 5120": (13824, 5120)}
TOKENS = 35_074  # of 832x480, for the time
ERROR_TOKENS, ERROR_OUTPUTS = 64, 64
LOUD_CHANNELS, LOUDNESS = 8, 100
GROUP = 16
ROUNDS = 10
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    torch.manual_seed(0)
    print("relative error, %             summed in float32   in float16   infinite")
    for name, (width, _) in SHAPES.items():
        for kind, scale in (("random", 1), ("loud channels", 1), ("64 times as large", 64), ("4096 times as large", 4096)):
            x = torch.randn(ERROR_TOKENS, width, device=DEVICE) * scale
            if kind == "loud channels":
                x[:, :LOUD_CHANNELS] *= LOUDNESS
            weight = torch.randn(ERROR_OUTPUTS, width, device=DEVICE) / math.sqrt(width)
            print(f"{name:14s}{kind:20s}{errors(x.half(), weight.half())}", flush=True)
    if DEVICE.type == "cuda":
        for name, (width, out) in SHAPES.items():
            times(name, width, out)


def errors(x, weight) -> str:
    exact = x.double() @ weight.double().T
    wide, narrow = (product(x, weight, in_half=in_half).double() for in_half in (False, True))
    finite = narrow.isfinite()
    figures = [100 * float(((result - exact)[finite]).norm() / exact[finite].norm()) for result in (wide, narrow)]
    return f"{figures[0]:13.3f}{figures[1]:13.2f}{100 * float((~finite).float().mean()):10.1f} %"


def product(x, weight, in_half: bool):
    """x @ weight.T in float16, summed in float32 or in float16."""
    if DEVICE.type == "cuda":
        torch.backends.cuda.matmul.allow_fp16_accumulation = in_half
        return x @ weight.T
    if not in_half:
        return (x.float() @ weight.float().T).half()
    total = torch.zeros(len(x), len(weight), dtype=torch.float16)
    for start in range(0, x.shape[1], GROUP):
        part = x[:, start : start + GROUP].float() @ weight[:, start : start + GROUP].float().T
        total = (total.float() + part).half()
    return total


def times(name: str, width: int, out: int) -> None:
    x, weight = torch.randn(TOKENS, width, device=DEVICE).half(), torch.randn(out, width, device=DEVICE).half()
    for in_half in (False, True):
        torch.backends.cuda.matmul.allow_fp16_accumulation = in_half
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for round_ in range(ROUNDS + 2):
            if round_ == 2:
                begin.record()
            x @ weight.T
        end.record()
        torch.cuda.synchronize()
        print(f"{name:14s} fp16, summed in {'float16' if in_half else 'float32'}: {begin.elapsed_time(end) / ROUNDS:.3f} ms", flush=True)


if __name__ == "__main__":
    main()

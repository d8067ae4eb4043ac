"""What the formats of `python -m cli convert` cost and give: error of each product and of a clip, and on a GPU seconds at full size.

    COMFYUI_PATH=... python bench/packed_formats.py                   # errors; minutes on a CPU, seconds on a GPU, then times there
    COMFYUI_PATH=... python bench/packed_formats.py --only times      # GPU: products of 35,074 tokens (832x480)

The products are those of ComfyUI's own layers, which round the inputs, too; without a GPU of the right kind the same numbers are multiplied
in bfloat16. `fp8, speed` is ours: a scale for every token and every output. The clips are made with the golden tiny weights in
bfloat16, 4 steps with guidance, as they are and with outliers injected: one weight in a thousand 20 times as large.
"""

import argparse
import contextlib
import io
import json
import logging
import lzma
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
from fp8_layers import SHAPES, TOKENS, activations, relative_error, report, start

FORMATS = ("fp8_scaled", "mxfp8", "nvfp4", "int8", "int8_rotated")
KINDS = ("random", "loud channels", "loud weights")
LOUD_WEIGHTS, WEIGHT_GAIN = 1e-3, 20
SMALL = {"256 -> 512": (256, 512)}
ON_A_CPU = {"5120 -> 5120": (5120, 5120)}  # the others take minutes and err alike
GOLDEN = comfy_runtime.ROOT / "tests/golden/data"
OPTIONS = {"weight_dtype": "bf16", "precision": "official", "attention": "comfyui"}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("products", "clips", "times"))
    parser.add_argument("--small", action="store_true", help="small matrices, for a trial")
    arguments = parser.parse_args()
    device = start()
    import torch

    torch.manual_seed(SEED)
    logging.getLogger("comfy_kitchen").setLevel(logging.ERROR)  # it says for each product that the hardware is missing
    shapes = SMALL if arguments.small else SHAPES if device.type == "cuda" else ON_A_CPU
    with torch.inference_mode():
        if arguments.only in (None, "products"):
            product_errors(shapes, device)
        if arguments.only in (None, "clips"):
            clip_errors(device)
        if arguments.only in (None, "times") and device.type == "cuda":
            for size, tokens in TOKENS.items():
                time_products(size, tokens, shapes, device)


def product_errors(shapes: dict, device) -> None:
    """Against float32 products of the same bfloat16 inputs and weights."""
    import torch.nn.functional as F

    print("relative error, %" + " " * 14 + "".join(f"{name:>14s}" for name in ("bf16", "fp8, speed", *FORMATS)))
    for name, (width, out) in shapes.items():
        for kind in KINDS:
            weight = matrix(out, width, device, loud=kind == "loud weights")
            x = activations(kind, width, device)
            exact = x.float() @ weight.float().T
            results = [F.linear(x, weight), by_rows(x, weight), *(layer(weight, form, device)(x[None])[0] for form in FORMATS)]
            print(f"{name:15s}{kind:16s}" + "".join(f"{100 * relative_error(result, exact):14.2f}" for result in results), flush=True)


def matrix(rows: int, columns: int, device, loud: bool = False):
    """Random bfloat16 weights, some of them loud where asked."""
    import torch

    weight = torch.randn(rows, columns, device=device) / math.sqrt(columns)
    return (with_outliers(weight) if loud else weight).bfloat16()


def with_outliers(weight):
    """The matrix with one weight in a thousand 20 times as large, always the same ones."""
    import torch

    chosen = torch.rand(weight.shape, generator=torch.Generator().manual_seed(SEED)) < LOUD_WEIGHTS
    return torch.where(chosen.to(weight.device), WEIGHT_GAIN * weight, weight)


def by_rows(x, weight):
    import torch
    from wan_s2v_pack.wan_s2v_model.kernels.linears import product, quantise_rows

    return product(quantise_rows(x), quantise_rows(weight), None, torch.bfloat16)


def layer(weight, form: str, device):
    """ComfyUI's layer with a matrix in a format, also where the device has no hardware for it."""
    import comfy.ops
    import torch
    from wan_s2v_pack.cli.convert.formats import packed

    linear = comfy.ops.mixed_precision_ops(compute_dtype=torch.bfloat16).Linear(weight.shape[1], weight.shape[0], bias=False, device=device)
    linear.load_state_dict({suffix.removeprefix("."): part.cpu() for suffix, part in packed(weight.cpu(), form).items()})
    return linear.to(device)


def clip_errors(device) -> None:
    """Of the latents of a clip, against the clip of the plain bfloat16 file."""
    import comfy.model_management
    from safetensors.torch import load

    for question in ("supports_nvfp4_compute", "supports_mxfp8_compute"):
        setattr(comfy.model_management, question, lambda device=None: True)  # else the inputs stay exact
    plain = load(lzma.decompress((GOLDEN / "tiny_s2v.safetensors.xz").read_bytes()))
    print("relative error of a clip, %" + " " * 4 + "".join(f"{name:>14s}" for name in FORMATS))
    for kind in ("golden", "outliers"):
        with tempfile.TemporaryDirectory() as folder:
            source = save(plain, Path(folder), loud=kind == "outliers")
            exact = clip(source)
            errors = [relative_error(clip(converted(source, form)), exact) for form in FORMATS]
        print(f"{kind:31s}" + "".join(f"{100 * error:14.2f}" for error in errors), flush=True)


def converted(source: Path, form: str) -> Path:
    from wan_s2v_pack.cli.convert import convert

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return convert(source, form, source.with_name(f"{form}.safetensors"))


def save(tensors: dict, folder: Path, loud: bool) -> Path:
    """The golden weights as a bfloat16 file."""
    from safetensors.torch import save_file

    config = json.loads((GOLDEN / "tiny_s2v.config.json").read_text())
    metadata = {"config": json.dumps({"transformer": {key: config[key] for key in ("text_dim", "audio_dim", "audio_inject_layers")}})}
    path = folder / "tiny_bf16.safetensors"
    changed = {name: with_outliers(tensor) if loud and tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    save_file({name: tensor.bfloat16() for name, tensor in changed.items()}, path, metadata=metadata)
    return path


def clip(path: Path):
    """The latents of a later clip."""
    import torch
    from wan_s2v_pack.wan_s2v_model import comfy_bridge
    from wan_s2v_pack.wan_s2v_model.conditioning.clip import ClipConditioning

    generator = torch.Generator().manual_seed(SEED)

    def noise(*shape: int):
        return torch.randn(1, *shape, generator=generator)

    conditioning = ClipConditioning(noise(25, 32, 32), noise(16, 1, 16, 16), noise(16, 19, 16, 16))
    texts = [[noise(9, 64), {}]], [[noise(9, 64), {}]]
    settings = comfy_bridge.SamplerSettings(steps=4, cfg=4.5, shift=3.0, solver="unipc")
    model = comfy_bridge.load_diffusion_model(str(path), OPTIONS)
    return comfy_bridge.ClipSampler(model, *texts, settings, seed=SEED)(0, conditioning, noise(16, 8, 16, 16))


def time_products(size: str, tokens: int, shapes: dict, device) -> None:
    """Seconds of each product with its rounding of the inputs, beside those of bfloat16 and of our fp8."""
    import torch
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.kernels.linears import product, quantise_rows

    print(f"\n{size}, {tokens:,} tokens, rounding of the inputs included")
    for name, (width, out) in shapes.items():
        x, weight = torch.randn(1, tokens, width, device=device, dtype=torch.bfloat16), matrix(out, width, device)
        rows, flop = quantise_rows(weight), 2 * tokens * width * out
        report(f"{name} bf16", lambda x=x, w=weight: F.linear(x, w), flop)
        report(f"{name} fp8, speed", lambda x=x, w=rows: product(quantise_rows(x), w, None, torch.bfloat16), flop)
        for form in ("int8", "int8_rotated", "mxfp8", "nvfp4"):
            if form.startswith("int8") or torch.cuda.get_device_capability(device)[0] >= 10:
                packed = layer(weight, form, device)
                report(f"{name} {form}", lambda x=x, run=packed: run(x), flop)


if __name__ == "__main__":
    main()

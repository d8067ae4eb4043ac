"""One forward pass of the full-size model through ComfyUI's memory management, ours against ComfyUI's own, on random weights.

    COMFYUI_PATH=... python bench/full_size_forward.py --weights /path/with/40/GB --pairs 5

Both run in one process on one set of weights, alternating; the table gives medians and the median ratio of neighbours.
"""

import argparse
import statistics
from pathlib import Path

import comfy_runtime
import full_size

NAMES = ("native", "ours", "ours, same attention", "ours, fast")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint (32.6 GB)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", choices=full_size.SIZES, default="832x480")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import comfy.sd
    import torch

    path = full_size.checkpoint(arguments.weights, arguments.layout)
    inputs = full_size.make_inputs(arguments.size)
    with torch.inference_mode():
        native = comfy.sd.load_diffusion_model(str(path))
        models = {
            "native": lambda: native,
            "ours": lambda: bridge.with_s2v_forward(native),
            "ours, same attention": lambda: with_attention(bridge, native, "comfyui"),
            "ours, fast": lambda: with_attention(bridge, native, "auto", residual_dtype=None),
        }
        compare({name: models[name]() for name in arguments.models}, inputs, arguments.pairs)


def with_attention(bridge, native, name, **attributes):
    """Our forward on the native model's layers, with an attention setting and attributes of the transformer."""
    model = bridge.with_s2v_forward(native)
    transformer = model.object_patches["diffusion_model._forward"].keywords["transformer"]
    for key, value in attributes.items():
        setattr(transformer, key, value)
    model.object_patches["diffusion_model._forward"].keywords["attention_name"] = name
    return model


def report(name: str, results: list) -> None:
    import torch

    seconds = [result[0] for result in results]
    out = results[-1][1]
    free, total = torch.cuda.mem_get_info()
    print(
        f"{name:22s} {full_size.median_range(seconds)}  torch peak "
        f"{torch.cuda.max_memory_allocated() / 2**30:5.1f} GiB  device in use {(total - free) / 2**30:5.1f} GiB  "
        f"finite {bool(torch.isfinite(out).all())}  std {out.std().item():.3f}",
        flush=True,
    )


def compare(models: dict, inputs: dict, pairs: int) -> None:
    """Alternate all models on the same weights, print medians and the ratio of the first to each."""
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import ClipMemory

    results: dict[str, list] = {name: [] for name in models}
    memories = {name: ClipMemory() for name in models}
    for round_index in range(pairs + 1):
        for name, model in models.items():
            full_size.use(model)
            torch.cuda.reset_peak_memory_stats()
            outcome = full_size.forward(model, inputs, memories[name])
            model.cleanup()
            if round_index:
                results[name].append(outcome)
    first = next(iter(models))
    for name, outcomes in results.items():
        report(name, outcomes)
        ratios = [a[0] / b[0] for a, b in zip(results[first], outcomes, strict=True)]
        print(f"    {first} / {name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()

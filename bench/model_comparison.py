"""What `doctor --compare` measures, on full-size models with random weights: where its limits come from.

    COMFYUI_PATH=... python bench/model_comparison.py --weights /path/with/50/GB
    COMFYUI_PATH=... python bench/model_comparison.py --weights /tmp/tiny --tiny --legacy       (a trial on the CPU)

Relative differences: `exact` is ours against ComfyUI's own model in float32, `ours` and `comfyui` are each in the dtype of sampling against
itself in float32, `late` is ours against ComfyUI's with the sound three frames late. `wrong` is ours against ours with the weights of one
of the 40 feed-forwards permuted, in float32: the smallest fault that the comparison has to find.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size

BLOCK = 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder for the random checkpoints")
    parser.add_argument("--layout", nargs="+", choices=full_size.LAYOUTS, default=full_size.LAYOUTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    options = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not options.legacy)
    calls = importlib.import_module("wan_s2v_pack.cli.compare.calls")
    options.weights.mkdir(parents=True, exist_ok=True)
    for layout in options.layout:
        path = full_size.checkpoint(options.weights, layout, options.tiny)
        print(layout, json.dumps(calls.compare(bridge, str(path)), indent=1), flush=True)
        print(f"wrong: {wrong(bridge, calls, str(path), options.tiny):.3e}", flush=True)
        path.unlink()


def wrong(bridge, calls, path: str, tiny: bool) -> float:
    """By how much the output of the first case differs with permuted input channels in one block."""
    case = {"first clip": calls.make_case(full_size.config(tiny), *calls.CASES["first clip"], later=False)}
    right = calls.run_cases(bridge.load_diffusion_model(path, calls.OPTIONS), case, exact_only=True)
    calls.forget_models()
    model = bridge.load_diffusion_model(path, calls.OPTIONS)
    feed_forward = model.model.diffusion_model.blocks[2 if tiny else BLOCK].ffn[0]
    forward = feed_forward.forward
    feed_forward.forward = lambda x: forward(x.flip(-1))  # a layer that is changed so runs as it is, also where kernels take its weights
    faulty = calls.run_cases(model, case, exact_only=True)
    calls.forget_models()
    return calls.difference(faulty.exact["first clip"], right.exact["first clip"])


if __name__ == "__main__":
    main()

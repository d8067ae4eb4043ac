"""Whether a LoRA is exactly the same change in the weights, in both ways in which ComfyUI manages memory. Tiny model, float32.

    COMFYUI_PATH=... python bench/lora_modes.py            # dynamic VRAM
    COMFYUI_PATH=... python bench/lora_modes.py --legacy

For every dialect, on our loader's MODEL and on ComfyUI's own: a clip at strength 0.8, at 0.3 and without, on one MODEL that stays loaded,
each against the clip of a checkpoint with the LoRA merged into it. `exact` merges in the number type in which ComfyUI patches in this mode:
float16 for whole weights on the GPU (legacy; in dynamic mode those of layers up to 16 KB), else float32. Its difference has to be 0.
`float32` merges everything in float32; its difference is what ComfyUI's float16 costs, and has to be small against what the LoRA does.
Exit code 1 if a row fails.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

STRENGTHS = (0.8, 0.3, 0.0, 0.8)
SMALL_LAYER = 16 * 1024  # bytes up to which dynamic VRAM patches whole weights
LARGEST_LOSS = 0.05  # of the change that the LoRA makes
OPTIONS = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--dialects", nargs="+", help="default: all of scripts/tiny_models/loras.py")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch
    from wan_s2v_pack.scripts.tiny_models.loras import DIALECTS

    print(f"{'MODEL':8}{'dialect':12}{'strength':>9}{'dynamic':>9}{'exact':>12}{'float32':>12}{'LoRA does':>12}")
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(bridge, Path(folder), legacy=arguments.legacy)
        rows = [bench.rows(loader, dialect) for loader in ("ours", "native") for dialect in arguments.dialects or DIALECTS]
    failed = sum(not passed for row in rows for passed in row)
    print(f"{failed} of {sum(map(len, rows))} rows failed")
    sys.exit(1 if failed else 0)


class Bench:
    """One tiny checkpoint, loaded by both loaders, and the clips that it makes."""

    def __init__(self, bridge, folder: Path, legacy: bool):
        self.bridge, self.folder, self.legacy = bridge, folder, legacy
        self.tensors = random_weights()
        path = self.save(self.tensors, "tiny")
        self.models = {"ours": self.load("ours", path), "native": self.load("native", path)}
        self.originals = {loader: self.sample(model) for loader, model in self.models.items()}

    def save(self, tensors: dict, name: str) -> str:
        from safetensors.torch import save_file

        path = self.folder / f"{name}.safetensors"
        save_file(tensors, path, {"config": json.dumps({"transformer": tiny_config().to_metadata()})})
        return str(path)

    def load(self, loader: str, path: str):
        import comfy.sd
        import torch

        if loader == "ours":
            return self.bridge.load_diffusion_model(path, OPTIONS)
        return comfy.sd.load_diffusion_model(path, {"dtype": torch.float32})

    def rows(self, loader: str, dialect: str) -> list[bool]:
        """Sample at all strengths and compare; one printed row and one verdict for each."""
        from wan_s2v_pack.scripts.tiny_models.loras import write_lora

        path = self.folder / f"{dialect}.safetensors"
        changes = write_lora(dialect, {name: tensor.shape for name, tensor in self.tensors.items()}, path)
        merged = {strength: self.merged_clips(loader, changes, strength) for strength in set(STRENGTHS) - {0.0}}
        verdicts = []
        for strength in STRENGTHS:
            model = self.bridge.apply_lora(self.models[loader], str(path), strength)[0] if strength else self.models[loader]
            clip = self.sample(model)
            exact, plain = merged.get(strength, (self.originals[loader],) * 2)
            distances = [largest(clip - other) for other in (exact, plain, self.originals[loader])]
            verdicts.append(distances[0] == 0 and distances[1] <= LARGEST_LOSS * distances[2] and bool(distances[2]) == bool(strength))
            figures = "".join(f"{distance:12.3g}" for distance in distances)
            print(f"{loader:8}{dialect:12}{strength:9}{model.is_dynamic()!s:>9}{figures}  {'PASS' if verdicts[-1] else 'FAIL'}", flush=True)
        return verdicts

    def merged_clips(self, loader: str, changes: list, strength: float) -> list:
        """Clips of the checkpoint merged in ComfyUI's number types, and in float32."""
        import torch

        clips = []
        for dtype_of in (self.patched_in, lambda name: torch.float32):
            tensors = dict(self.tensors)
            for change in changes:
                weight = tensors[change.tensor].to(self.device_of(change.tensor), dtype_of(change.tensor))
                tensors[change.tensor] = change.merge(weight, strength).float().cpu()
            clips.append(self.sample(self.load(loader, self.save(tensors, "merged"))))
        return clips

    def patched_in(self, name: str):
        """Number type in which this mode patches a tensor."""
        import comfy.model_management
        import torch

        module, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            return torch.float32
        size = sum(tensor.nbytes for key, tensor in self.tensors.items() if key.rpartition(".")[0] == module)
        if self.legacy or size <= SMALL_LAYER:
            return comfy.model_management.lora_compute_dtype(comfy.model_management.get_torch_device())
        return torch.float32

    def device_of(self, name: str):
        """Raw parameters are patched by us, on the CPU."""
        import comfy.model_management

        return comfy.model_management.get_torch_device() if name.endswith((".weight", ".bias")) else "cpu"

    def sample(self, model):
        import torch
        from wan_s2v_pack.wan_s2v_model.conditioning.clip import ClipConditioning

        def random(seed: int, *shape: int):
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

        conditioning = ClipConditioning(random(1, 1, 25, 32, 16), random(2, 1, 16, 1, 8, 8), random(3, 1, 16, 19, 8, 8))
        text = [[random(4, 1, 9, 64), {}]]
        settings = self.bridge.SamplerSettings(steps=3, cfg=4.5, shift=3.0, solver="unipc")
        return self.bridge.ClipSampler(model, text, text, settings, seed=42)(0, conditioning, random(5, 1, 16, 4, 8, 8))


def tiny_config():
    from wan_s2v_pack.wan_s2v_model.transformer.config import WanS2VConfig

    return WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))


def random_weights() -> dict:
    """Seeded weights of the tiny checkpoint that keep activations near 1."""
    import torch
    from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in expected_shapes(tiny_config()).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            values = 0.02 * values + ("norm" in name and name.endswith("weight"))
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
        tensors[name] = values
    return tensors


def largest(difference) -> float:
    return float(difference.abs().max())


if __name__ == "__main__":
    main()

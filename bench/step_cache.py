"""What the step cache saves and costs: model calls of a run, and the error that is stated beside the true one.

    COMFYUI_PATH=... python bench/step_cache.py                                     # a tiny model; minutes on a CPU
    COMFYUI_PATH=... python bench/step_cache.py --model FILE --size 832x480 --clips 3 --check 2 --allowed 0.05    # on a GPU, 20 minutes

Clips of a stand-in with random inputs, 40 steps with guidance. Each is sampled with the cache and without; `true` is the difference
between both. `stated` is what the cache has measured in the clips that it samples both ways; their full latents are kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

from fp8_layers import relative_error, start

OPTIONS = {"weight_dtype": "default", "precision": "official", "attention": "auto"}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: a tiny one of random weights")
    parser.add_argument("--size", default="64x64", help="pixels")
    parser.add_argument("--frames", type=int, help="per clip; default: 80, or 16 with the tiny model")
    parser.add_argument("--clips", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--solver", default="unipc")
    parser.add_argument("--check", type=int, default=4)
    parser.add_argument("--allowed", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1])
    arguments = parser.parse_args()
    start()
    import torch

    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        full = [bench.sampler()(*bench.inputs(clip)) for clip in range(arguments.clips)]
        for allowed in arguments.allowed:
            bench.compare(allowed, full)


class Bench:
    """A model and the inputs of its clips."""

    def __init__(self, arguments, folder: Path):
        from wan_s2v_pack.wan_s2v_model import comfy_bridge

        self.bridge, self.arguments = comfy_bridge, arguments
        path = arguments.model or tiny_model(folder)
        self.model = comfy_bridge.load_diffusion_model(str(path), OPTIONS)
        self.frames = arguments.frames or (80 if arguments.model else 16)

    def sampler(self, cache=None):
        config = self.model.model.diffusion_model.config
        texts = [[noise(number, 64, config.text_dim), {}] for number in (1, 2)]
        settings = self.bridge.SamplerSettings(
            steps=self.arguments.steps, cfg=4.5, shift=3.0, solver=self.arguments.solver, step_cache=cache
        )
        return self.bridge.ClipSampler(self.model, [texts[0]], [texts[1]], settings, seed=SEED)

    def inputs(self, clip: int):
        """Number, conditioning and noise of a clip; the first one has no motion."""
        from wan_s2v_pack.wan_s2v_model.conditioning.clip import ClipConditioning

        config = self.model.model.diffusion_model.config
        width, height = (int(side) // 8 for side in self.arguments.size.split("x"))
        audio = noise(100 + clip, config.num_audio_layers, config.audio_dim, self.frames)
        motion = noise(200 + clip, 16, 19, height, width) if clip else None
        conditioning = ClipConditioning(audio, noise(3, 16, 1, height, width), motion)
        return clip, conditioning, noise(300 + clip, 16, self.frames // 4, height, width)

    def compare(self, allowed: float, full: list) -> None:
        from wan_s2v_pack.wan_s2v_model.sampling.step_cache import StepCache

        sampler = self.sampler(StepCache(allowed, self.arguments.check))
        true = [relative_error(sampler(*self.inputs(clip)), full[clip]) for clip in range(self.arguments.clips)]
        cached, guessed = sampler.cached, [len(note["guessed"]) for note in sampler.cached.notes]
        asked = cached.num_steps - cached.num_guessed
        steps = self.arguments.clips * self.arguments.steps
        print(f"\nallowed {allowed:.1%}: {asked} of {steps} steps asked the model, {steps / asked:.2f} times fewer")
        print(
            f"    steps of a clip guessed {guessed}, so {self.arguments.steps / (self.arguments.steps - guessed[-1]):.2f} times fewer calls"
        )
        print("    expected " + ", ".join(f"{note['expected']:.2%}" for note in cached.notes))
        print("    stated   " + ", ".join(f"clip {note['clip']} {note['error']:.2%}" for note in cached.notes if note["error"] is not None))
        print("    true     " + ", ".join(f"clip {clip} {error:.2%}" for clip, error in enumerate(true) if error), flush=True)


def noise(seed: int, *shape: int):
    import torch

    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def tiny_model(folder: Path) -> Path:
    from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
    from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL

    make_tiny_models(folder)
    return folder / DIFFUSION_MODEL


if __name__ == "__main__":
    main()

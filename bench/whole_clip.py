"""Every stage of a video through ComfyUI's memory management, without server: seconds and GPU memory of each.

    COMFYUI_PATH=... python bench/whole_clip.py MODELS_FOLDER --size 832x480 --clips 2 --steps 4

MODELS_FOLDER is a ComfyUI `models` folder with one file for each of the four models, for example of scripts/tiny_models/make.py.
With --random it is filled with random models of full size first (bf16: 44 GB, fp8_scaled: 28 GB).
"""

import argparse
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import encoders_off
import full_size
import vae_decode

FOLDERS = ("diffusion_models", "text_encoders", "audio_encoders", "vae")
CLIP_S = 5
SAMPLE_RATE_HZ = 16_000
VIDEO_FPS = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("--size", default="832x480", help="pixels, multiples of 64")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=4.5)
    parser.add_argument("--cfg-end", type=float, default=1.0)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--solver", default="unipc")
    parser.add_argument("--speed", default="exact")
    parser.add_argument("--precision", default="official")
    parser.add_argument("--vae-dtype", default="fp32")
    parser.add_argument("--vae-warmup", type=int, default=19)
    parser.add_argument("--quick-first", action="store_true", help="sample the first clip in one step, where only later ones matter")
    parser.add_argument("--random", choices=full_size.LAYOUTS, help="write random models of full size where there are none")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    if arguments.random:
        write_models(arguments.models, arguments.random)
    width, height = map(int, arguments.size.split("x"))
    model_file, text_file, audio_file, vae_file = (weights_file(arguments.models / folder) for folder in FOLDERS)
    with torch.inference_mode():
        with stage("load"):
            options = {"weight_dtype": "default", "precision": arguments.precision, "attention": "auto", "speed": arguments.speed}
            model = bridge.load_diffusion_model(model_file, options)
            clip, encoder = bridge.load_text_encoder(text_file), bridge.AudioEncoder(audio_file, "fp32")
            vae = bridge.load_vae(vae_file, arguments.vae_dtype)
        positive, negative = encode_text(clip)
        plan = make_plan(bridge, encoder, vae, height, width, arguments.clips)
        names = ("steps", "cfg", "shift", "solver", "cfg_end", "vae_warmup")
        settings = bridge.SamplerSettings(**{name: getattr(arguments, name) for name in names})
        first = replace(settings, steps=1) if arguments.quick_first else settings
        samplers = [bridge.ClipSampler(model, positive, negative, each, seed=42) for each in (first, settings)]
        render(bridge, samplers, vae, plan)
    print(f"dynamic VRAM: {model.is_dynamic()}, weights in {model.model.get_dtype_inference()}")


def write_models(models: Path, layout: str) -> None:
    """Random models of full size, as a ComfyUI `models` folder."""
    for name in FOLDERS:
        (models / name).mkdir(parents=True, exist_ok=True)
    diffusion, text, audio, vae = (models / name for name in FOLDERS)
    full_size.checkpoint(diffusion, layout)
    encoders_off.text_encoder(text)
    encoders_off.audio_encoder(audio)
    vae_decode.write_vae(vae / "random_vae.safetensors")


def weights_file(folder: Path) -> str:
    return str(next(path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".pth")))


def synchronised() -> float:
    """Seconds on the clock when the GPU has done all it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def stage(name: str) -> Iterator[None]:
    import torch

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    yield
    seconds = synchronised() - start
    peak = f"torch peak {torch.cuda.max_memory_allocated() / 2**30:6.2f} GiB" if on_gpu else ""
    print(f"{name:24s} {seconds:8.2f} s   {peak}", flush=True)


def encode_text(clip):
    from wan_s2v_pack.wan_s2v_model.conditioning.prompts import encode_prompt
    from wan_s2v_pack.wan_s2v_model.constants import NEGATIVE_PROMPT

    with stage("text"):
        return encode_prompt(clip, "A woman faces the camera and talks calmly."), encode_prompt(clip, NEGATIVE_PROMPT)


def make_plan(bridge, encoder, vae, height: int, width: int, clips: int):
    import torch
    from wan_s2v_pack.wan_s2v_model.audio.features import pick_frames, resample_rows
    from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
    from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline

    samples = clips * CLIP_S * SAMPLE_RATE_HZ - SAMPLE_RATE_HZ
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    with stage("audio"):
        features = pick_frames(resample_rows(encoder.hidden_states(waveform)))
    timeline = plan_timeline(samples, SAMPLE_RATE_HZ, samples)
    with stage("reference picture"):
        ref_latents = bridge.encode_pixels(vae, torch.rand(1, height, width, 3))
    return Plan(timeline, height, width, features, waveform[None], SAMPLE_RATE_HZ, ref_latents)


def render(bridge, samplers, vae, plan) -> None:
    """Every clip, and the seconds from the start of its sampling to its last encoded frame. Samplers: of the first clip, of others."""
    import torch
    from wan_s2v_pack.wan_s2v_model.sampling.clip_loop import clip_decoder, first_state, run_clips

    warmup = samplers[-1].settings.vae_warmup

    def sample(clip, conditioning, noise):
        sampler = samplers[min(clip, 1)]
        ends = [time.perf_counter()]
        sampler.on_step = lambda done, x0: ends.append(synchronised())
        with stage(f"clip {clip}: {sampler.num_steps} steps"):
            latents = sampler(clip, conditioning, noise)
        print("  steps:", *(f"{end - start:.2f}" for start, end in itertools.pairwise(ends)), "s", flush=True)
        return latents

    def decode(latents, newest):
        with stage(f"  decode {latents.shape[2]} latents"):
            return bridge.decode_latents(vae, latents, newest=newest)

    def encode(frames):
        with stage("  encode motion"):
            return bridge.encode_pixels(vae, frames)

    decode_clip = clip_decoder(decode, plan.timeline.num_latent_frames, warmup)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, video_file(Path(folder) / "clip.mp4", plan) as write:
        for result in run_clips(plan, first_state(plan, encode), 42, sample=sample, encode=encode, decode=decode_clip):
            seconds = time.perf_counter() - start
            with stage("  video file, behind"):
                write(result.frames)
            finite = bool(torch.isfinite(result.latents).all() and torch.isfinite(result.frames).all())
            print(f"  {result.frames.shape[0]} frames, finite {finite}, latents std {result.latents.std():.3f}")
            print(f"  whole clip             {seconds:8.2f} s", flush=True)
            start = time.perf_counter()


@contextmanager
def video_file(path: Path, plan) -> Iterator[Callable]:
    """Writes frames to a file. Our nodes do it in another thread while the next clip is sampled, so it is not counted into the clip."""
    if importlib.util.find_spec("av") is None:
        print("PyAV is not installed: no video file is written")
        yield lambda frames: None
        return
    from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
    from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter

    video = {"width": plan.width, "height": plan.height, "fps": VIDEO_FPS, "video_format": FORMATS["mp4 (h264)"], "quality": 18}
    with VideoWriter(path, **video) as writer:
        yield writer.write


if __name__ == "__main__":
    main()

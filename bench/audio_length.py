"""The sound of a video of any length: seconds and memory from 48 kHz stereo to features at 16 fps. One process per length.

    COMFYUI_PATH=... python bench/audio_length.py WAV2VEC2_FILE --minutes 1 10 60

On a machine without an NVIDIA GPU it runs on the CPU.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

SAMPLE_RATE_HZ = 48_000
LARGEST_MINUTES_MADE = 1  # the sound repeats after that, louder or softer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 is torch's own choice")
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for minutes in arguments.minutes:
        process = spawn.Process(target=measure, args=(arguments.weights, minutes, arguments.dtype, arguments.threads))
        process.start()
        process.join()


def measure(weights: Path, minutes: float, dtype: str, threads: int) -> None:
    bridge = _start(threads)
    import torch
    from wan_s2v_pack.wan_s2v_model.audio.feature_file import collect_features
    from wan_s2v_pack.wan_s2v_model.audio.features import num_audio_frames, num_audio_rows, num_wav2vec_frames
    from wan_s2v_pack.wan_s2v_model.media.sound import to_mono_16khz

    has_gpu = torch.cuda.is_available()
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        encoder, waveform = bridge.AudioEncoder(str(weights), dtype), make_sound(minutes)
        before, start = resident_bytes(), time.perf_counter()
        mono = to_mono_16khz(waveform, SAMPLE_RATE_HZ)
        resampled = time.perf_counter()
        num_frames = num_audio_frames(num_audio_rows(num_wav2vec_frames(mono.shape[0])))
        features = collect_features(encoder.hidden_layers(mono), num_frames, Path(folder))
        end = time.perf_counter()
        gpu = f"   GPU peak {torch.cuda.max_memory_allocated() / 2**20:7.0f} MiB" if has_gpu else ""
        print(
            f"{minutes:6g} min   resampling {resampled - start:7.2f} s   features {end - resampled:9.2f} s   "
            f"main memory peak {(resident_bytes() - before) / 2**20:7.0f} MiB over {before / 2**20:.0f} MiB{gpu}   "
            f"{tuple(features.shape)} {features.dtype}",
            flush=True,
        )


def _start(threads: int):
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(comfy_runtime.ROOT / ".comfyui")))
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    if threads:
        torch.set_num_threads(threads)
    return comfy_runtime.start(dynamic_vram=False)


def make_sound(minutes: float):
    """[2, T]: noise in syllables."""
    import torch

    total = round(minutes * 60 * SAMPLE_RATE_HZ)
    made = min(total, LARGEST_MINUTES_MADE * 60 * SAMPLE_RATE_HZ)
    noise = 0.1 * torch.randn(2, made, generator=torch.Generator().manual_seed(0))
    noise *= torch.sin(torch.arange(made) * (4 * torch.pi / SAMPLE_RATE_HZ)).square()
    sound = torch.empty(2, total)
    for first in range(0, total, made):
        length = min(made, total - first)
        torch.mul(noise[:, :length], 0.5 + 0.5 * (first // made % 7) / 7, out=sound[:, first : first + length])
    return sound


def resident_bytes() -> int:
    """Most memory that this process has had, file pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

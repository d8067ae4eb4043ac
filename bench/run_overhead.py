"""What keeping a run costs per clip: the store and the video in progress, with stand-ins for the networks. Needs neither GPU nor ComfyUI.

    python bench/run_overhead.py --size 832x480 --clips 6

`thread` is what the sampling thread spends on it: the time to hand a clip over, and while the stand-ins only sleep, as a thread does
that waits for a GPU, the time by which they wake too late. `loop` is what it spends besides, with noise and motion frames. `stored` and
`shown` are the seconds after which a clip is on the disk, and in the video in progress. `CPU` is what all threads burn for a clip.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SAMPLING_S = 5.0
TICK_S = 0.005
SAMPLE_RATE_HZ = 48_000
FPS = 16
FRAMES_PER_CLIP = 80


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="832x480", help="pixels")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    load_pack()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder) / "run", width, height, arguments.clips)


def load_pack() -> None:
    spec = importlib.util.spec_from_file_location("wan_s2v_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["wan_s2v_pack"] = importlib.util.module_from_spec(spec)  # not executed: nodes need the server


class StandIns:
    """Networks that take no time but that of the clock, and what was measured beside them."""

    def __init__(self, width: int, height: int):
        picture = torch.nn.functional.interpolate(torch.rand(1, 3, height // 16, width // 16), (height + 32, width + 32), mode="bicubic")
        picture = picture[0].movedim(0, -1).clamp(0, 1)
        shifts = [(index * 3 % 32, index % 32) for index in range(FRAMES_PER_CLIP)]
        frames = torch.stack([picture[y : y + height, x : x + width] for y, x in shifts])
        grain = 0.02 * torch.randn(FRAMES_PER_CLIP, height, width, 1)
        self.frames = torch.cat([torch.zeros(1, height, width, 3).expand(80, -1, -1, -1), (frames + grain).clamp(0, 1)])
        self.inside_s, self.late_s, self.handing_over_s = 0.0, 0.0, 0.0

    def sample(self, clip, conditioning, noise):
        start = time.perf_counter()
        while (left := start + SAMPLING_S - time.perf_counter()) > 0:
            tick = min(TICK_S, left)
            before = time.perf_counter()
            time.sleep(tick)
            self.late_s += max(0.0, time.perf_counter() - before - 2 * tick)
        self.inside_s += time.perf_counter() - start
        return noise

    def decode(self, latents):
        return self._timed(lambda: self.frames.clone())

    def encode(self, frames):
        return self._timed(lambda: torch.zeros(1, 16, 19, frames.shape[1] // 8, frames.shape[2] // 8))

    def _timed(self, function):
        start = time.perf_counter()
        result = function()
        self.inside_s += time.perf_counter() - start
        return result


def measure(folder: Path, width: int, height: int, num_clips: int) -> None:
    modules = ["finish", "clips", "live_video", "store"]
    finish, clips, live_video, store_module = (importlib.import_module(f"wan_s2v_pack.wan_s2v_model.runs.{name}") for name in modules)
    plan = make_plan(width, height, num_clips)
    stand_ins, stored_s, shown_s, handed_s = StandIns(width, height), [], [], []

    hand_over = finish.BackgroundWorker.submit

    def timed_run(background, task):
        start = time.perf_counter()
        hand_over(background, task)
        stand_ins.handing_over_s += time.perf_counter() - start

    finish.BackgroundWorker.submit = timed_run

    def decode(latents):
        frames = stand_ins.decode(latents)
        handed_s.append(time.perf_counter())
        return frames

    start, cpu = time.perf_counter(), time.process_time()
    with (
        store_module.RunStore.open(folder, {}) as store,
        live_video.LiveVideo(
            clips.Clips(store, plan, delete_with_handle=False), 0, lambda path: shown_s.append(time.perf_counter())
        ) as live,
    ):

        def on_stored(clip):
            stored_s.append(time.perf_counter())
            live.consume(clip)

        finish.finish_run(store, plan, 1, sample=stand_ins.sample, encode=stand_ins.encode, decode=decode, on_stored=on_stored)
        loop_s = time.perf_counter() - start
    cpu = time.process_time() - cpu
    handing_over_s = stand_ins.handing_over_s
    rest_s = loop_s - stand_ins.inside_s - handing_over_s
    print(f"thread   {handing_over_s / num_clips:.3f} s to hand over, {stand_ins.late_s / num_clips:.3f} s late, per clip")
    print(f"loop     {rest_s / num_clips:.2f} s per clip")
    print(f"CPU      {cpu / num_clips:.2f} s per clip, stand-ins included")
    for name, times in (("stored", stored_s), ("shown", shown_s)):
        print(f"{name:8s} {', '.join(f'{a - b:.2f}' for a, b in zip(times, handed_s, strict=True))} s after the decoder gave the clip")
    print(f"{sum(path.stat().st_size for path in folder.iterdir()) / num_clips / 1e6:.0f} MB on disk per clip")


def make_plan(width: int, height: int, num_clips: int):
    Plan = importlib.import_module("wan_s2v_pack.wan_s2v_model.conditioning.plan").Plan
    timeline = importlib.import_module("wan_s2v_pack.wan_s2v_model.conditioning.timeline")
    seconds = (num_clips * FRAMES_PER_CLIP - 3) // FPS
    samples = seconds * SAMPLE_RATE_HZ
    plan = timeline.plan_timeline(samples, SAMPLE_RATE_HZ, seconds * 16_000)
    features, waveform = torch.zeros(2, 3, plan.num_audio_frames), torch.rand(1, samples) - 0.5
    return Plan(plan, height, width, features, waveform, SAMPLE_RATE_HZ, torch.zeros(1, 16, 1, height // 8, width // 8))


if __name__ == "__main__":
    main()

"""One video on several GPUs, in one process through ComfyUI's sampler and memory management: steps, whole clips, equality, small cards.

    COMFYUI_PATH=... python bench/gpus.py --weights /path/with/40/GB                          (exact: guided steps, single calls)
    COMFYUI_PATH=... python bench/gpus.py --weights ... --layout fp8_scaled --speed "fp8 linears and attention"
    COMFYUI_PATH=... python bench/gpus.py --weights ... --parts equality cards
    COMFYUI_PATH=... python bench/gpus.py --small                                              (a trial on the CPU)

Rows alternate. A step is timed on the GPU from its callback to the next one, without waiting, as in a run without previews; the first step
of a clip, which computes what is constant, is not counted. "ahead" is how much longer than at the first step Python was ahead of the GPU:
below zero Python is the limit. The last table gives medians and the ratio of the first row to each.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size
import gpu_timeline

GB = 1e9
PARTS = ("steps", "clip", "profile", "equality", "cards", "links")
OVER = {  # what the GPUs exchange; the last two are wrong, and say what copies over the link and waiting cost
    "keys": "keys and values",
    "heads": "heads",
    "uncopied": "nothing, but wait, with keys of their own in place of the others'",
    "nothing": "nothing",
}
EQUAL_CALLS = 100
EQUAL_SIZE = (32, 32)  # latents: small, so that little hides a copy that comes too late
GUIDED, SINGLE = 4.5, 1.0


def main() -> None:
    arguments = parse()
    bridge = comfy_runtime.start(dynamic_vram=not (arguments.legacy or arguments.small))
    import torch

    if arguments.small:
        devices = [torch.device("cpu"), *(torch.device("cpu", index) for index in range(1, arguments.gpus))]
        import comfy.model_management

        comfy.model_management.get_all_torch_devices = lambda *_, **__: devices
    with folder_of_weights(arguments) as folder, torch.inference_mode():
        bench = Bench(bridge, arguments, folder)
        for part in arguments.parts:
            getattr(bench, part)()
    print_tables(bench.tables)


@contextmanager
def folder_of_weights(arguments) -> Iterator[Path]:
    """--weights, which keeps the random checkpoint; without it a folder that is gone behind the bench."""
    if arguments.weights is not None:
        yield arguments.weights
        return
    with tempfile.TemporaryDirectory(prefix="wan_s2v_bench") as folder:
        yield Path(folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder that keeps the random checkpoint")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--speed", default="exact")
    parser.add_argument("--precision", default="official")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["links", "steps"])
    parser.add_argument("--size", nargs="+", choices=full_size.ALL_SIZES, default=list(full_size.SIZES))
    parser.add_argument("--guided-size", nargs="*", choices=full_size.ALL_SIZES, default=["832x480"], help="sizes of guided steps, too")
    parser.add_argument("--over", nargs="+", choices=OVER, default=["keys"], help="what the GPUs exchange: a row for each")
    parser.add_argument("--rounds", type=int, default=3, help="clips of each row")
    parser.add_argument("--steps", type=int, default=3, help="of each clip; the first is not counted")
    parser.add_argument("--cfg", type=float, default=GUIDED, help="of the part `clip`; 1: without guidance")
    parser.add_argument("--vae-dtype", default="fp32")
    parser.add_argument("--vae-warmup", type=int, default=19)
    parser.add_argument("--card", type=float, default=12, help="GB of each GPU in the part `cards`; a ballast takes the rest")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--small", action="store_true", help="a tiny model on the CPU, for a trial")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.size, arguments.guided_size = ["64x64"], ["64x64"]
    return arguments


@dataclass
class Row:
    """A MODEL and how it is sampled; seconds of each step that counts, and how far Python was ahead of the GPU at its end."""

    model: object
    cfg: float
    over: str = "keys"
    seconds: list[float] = field(default_factory=list)
    ahead: list[float] = field(default_factory=list)
    latents: object = None


class Bench:
    """The models, and what was measured with them: tables by title."""

    def __init__(self, bridge, arguments, folder: Path):
        import comfy.multigpu

        self.bridge, self.arguments = bridge, arguments
        path = full_size.checkpoint(folder, arguments.layout, arguments.small)
        options = {**full_size.OPTIONS, "precision": arguments.precision, "speed": arguments.speed}
        self.one = bridge.load_diffusion_model(str(path), options)
        self.all = comfy.multigpu.create_multigpu_deepclones(self.one, arguments.gpus)
        self.gpus = [patcher.load_device for patcher in (self.all, *self.all.get_additional_models_with_key("multigpu"))]
        if len(self.gpus) != arguments.gpus:
            raise SystemExit(f"{arguments.gpus} GPUs are wanted, and here are {len(self.gpus)}")
        self.tables: dict[str, dict[str, Row]] = {}
        self.first_mark = None
        self.config = full_size.config(arguments.small)

    def steps(self) -> None:
        """Steps with one model call, and guided ones with two, on one GPU and on all."""
        count = len(self.gpus)
        for size in self.arguments.size:
            shared = {f"1 call over {count} GPUs, {OVER[over]}": Row(self.all, SINGLE, over) for over in self.arguments.over}
            self.alternate(f"{size}, one call", size, {"1 call on one GPU": Row(self.one, SINGLE), **shared})
        for size in self.arguments.guided_size:
            rows = {"guided step on one GPU": Row(self.one, GUIDED), f"guided step on {count} GPUs": Row(self.all, GUIDED)}
            self.alternate(f"{size}, guided", size, rows)

    def clip(self) -> None:
        """A whole later clip of some steps, with --cfg: sampled, decoded, and its end encoded for the next clip; not the video file."""
        import torch
        import vae_decode

        size, arguments = self.arguments.size[0], self.arguments
        height, width = full_size.ALL_SIZES[size]
        latents, frames = (
            randn(9, 16, arguments.vae_warmup + full_size.NUM_LATENT_FRAMES, height, width),
            torch.rand(73, 8 * height, 8 * width, 3),
        )
        vae_decode.FULL_SIZE["dim"] = 8 if arguments.small else 96
        with tempfile.TemporaryDirectory() as folder:
            vae = self.bridge.load_vae(vae_decode.write_vae(Path(folder) / "vae.safetensors"), arguments.vae_dtype)
            for name, model in (("one GPU", self.one), (f"{len(self.gpus)} GPUs", self.all)):
                row, run_vae = Row(model, arguments.cfg), self.bridge.RunVae(vae, model)
                work = {
                    "sampling": lambda row=row: self.sample(row, size),
                    "decode": lambda run_vae=run_vae: run_vae.decode(latents, newest=4 * full_size.NUM_LATENT_FRAMES),
                    "encode": lambda run_vae=run_vae: run_vae.encode(frames),
                }
                for run in work.values():  # not counted: weights, kernels
                    run()
                rounds = [{what: self.seconds(run) for what, run in work.items()} for _ in range(arguments.rounds)]
                took = {what: statistics.median(each[what] for each in rounds) for what in work}
                step, rest = statistics.median(row.seconds), took["decode"] + took["encode"]
                told = ", ".join(f"{what} {seconds:.2f}" for what, seconds in took.items())
                print(f"    clip of {arguments.steps} steps at {size}, {name}: {sum(took.values()):.2f} s ({told}); "
                      f"with 40 such steps {40 * step + rest:.2f} s; tiles {run_vae._tried}", flush=True)  # fmt: skip

    def seconds(self, work: Callable[[], object]) -> float:
        """Of some work, all GPUs waited for."""
        import torch

        start = time.perf_counter()
        work()
        for device in self.gpus:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return time.perf_counter() - start

    def profile(self) -> None:
        """Where the time of one call goes, on one GPU and on all."""
        size = self.arguments.size[0]
        told = [gpu_timeline.record(lambda row=row: self.sample(row, size)) for row in (Row(self.one, SINGLE), Row(self.all, SINGLE))]
        for timelines in told:
            gpu_timeline.print_timelines(f"{self.arguments.steps} steps at {size} on {len(timelines)}", timelines, told[0][0])

    def alternate(self, title: str, size: str, rows: dict[str, Row]) -> None:
        self.tables[title] = rows
        for number in range(self.arguments.rounds):
            for name, row in rows.items():
                self.sample(row, size)
                print(f"    {title}, round {number}: {name}: {' '.join(f'{each:.3f}' for each in row.seconds)} s", flush=True)

    def sample(self, row: Row, size: str) -> None:
        """Sample one clip, and add its steps to the row."""
        settings = self.bridge.SamplerSettings(steps=self.arguments.steps, cfg=row.cfg, shift=3.0, solver="unipc")
        texts = [[[randn(seed, 512, self.config.text_dim), {}]] for seed in (1, 2)]
        sampler = self.bridge.ClipSampler(row.model, *texts, settings, seed=42)
        marks: list[tuple[float, Callable[[], float]]] = []
        sampler.on_step = lambda done, _: marks.append((time.perf_counter(), self.mark()))
        with exchanging(row.over):
            row.latents = sampler(1, later_clip(self.config, size), noise(size))
        queued, ended = [begun for begun, _ in marks], [end() for _, end in marks]
        row.seconds += [end - start for start, end in pairwise(ended)]
        row.ahead += [end - begun - ended[0] + queued[0] for begun, end in zip(queued[1:], ended[1:], strict=True)]

    def mark(self) -> Callable[[], float]:
        """When the first GPU has done what it was given so far: waits as late as when it is asked, as a run without previews does."""
        import torch

        if self.gpus[0].type == "cpu":
            now = time.perf_counter()
            return lambda: now
        end = torch.cuda.Event(enable_timing=True)
        end.record(torch.cuda.current_stream(self.gpus[0]))
        self.first_mark = self.first_mark or end

        def seconds() -> float:
            end.synchronize()
            return self.first_mark.elapsed_time(end) / 1000

        return seconds

    def equality(self) -> None:
        """The same call many times over all GPUs, and on one: how far the results are apart."""
        import torch

        full_size.ALL_SIZES["equal"] = EQUAL_SIZE
        calls = 5 if self.arguments.small else EQUAL_CALLS
        print(f"\n{calls} equal calls, {EQUAL_SIZE[1] * 8}x{EQUAL_SIZE[0] * 8}", flush=True)
        for name, model in (("one GPU", self.one), (f"{len(self.gpus)} GPUs", self.all)):
            with calls_of(model, self.config, "equal") as call:
                first = call()
                different, largest = 0, 0.0
                for _ in range(calls - 1):
                    out = call()
                    different += not torch.equal(out, first)
                    largest = max(largest, relative(out, first))
            print(f"    {name}: {different} of {calls - 1} differ from the first, by at most {largest:.1e}", flush=True)
            self.reference = first if model is self.one else self.reference
        print(f"    {len(self.gpus)} GPUs differ from one by {relative(first, self.reference):.1e}", flush=True)

    def cards(self) -> None:
        """Small cards, made by a ballast on each GPU."""
        from wan_s2v_pack.wan_s2v_model.comfy_bridge.gpus import gpus_of

        size, row = self.arguments.size[-1], Row(self.all, SINGLE)
        title = f"{size} on {len(self.gpus)} cards of {self.arguments.card:g} GB"
        for patcher in gpus_of(self.all):
            if patcher.is_dynamic():
                patcher.partially_unload(patcher.offload_device, 1e32)
        with ExitStack() as stack:
            held = [stack.enter_context(ballast(device, self.arguments.card)) for device in self.gpus]
            peaks = [stack.enter_context(full_size.PeakMemory(size, device)) for size, device in zip(held, self.gpus, strict=True)]
            self.alternate(title, size, {"1 call": row})
        print(f"    {title}: peaks {', '.join(f'{peak.bytes / GB:.2f}' for peak in peaks)} GB", flush=True)

    def links(self) -> None:
        """How fast the GPUs reach each other."""
        from wan_s2v_pack.wan_s2v_model.transformer.crew import copies_arrive, copy_speed

        for source in self.gpus:
            for target in self.gpus:
                if source != target and source.type == "cuda":
                    arrives = copies_arrive(source, target)
                    print(f"    {source} to {target}: arrives {arrives}, {copy_speed(source, target) / GB:.0f} GB/s", flush=True)


def randn(seed: int, *shape: int):
    import torch

    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def noise(size: str):
    return randn(5, 16, full_size.NUM_LATENT_FRAMES, *full_size.ALL_SIZES[size])


def later_clip(config, size: str):
    from wan_s2v_pack.wan_s2v_model.conditioning.clip import ClipConditioning

    latents = full_size.ALL_SIZES[size]
    return ClipConditioning(
        audio_embedding=randn(6, 25, config.audio_dim, 4 * full_size.NUM_LATENT_FRAMES),
        ref_latents=randn(7, 16, 1, *latents),
        motion_latents=randn(8, 16, 19, *latents),
    )


def copy_own(links, pair, giver, taker, room):
    """As `_Links.copy`, of the taker's own part: what memory holds by chance would be faster or slower to multiply than keys are."""
    if giver.ready is None or taker.ready is None:
        return None
    import torch

    (_, here), own = links._of_pair(pair), taker.given[pair[0]]
    here.wait_event(giver.ready)
    here.wait_event(taker.ready)
    with torch.cuda.stream(here):
        rows = min(room.shape[1], own.shape[1])
        room[:, :rows].copy_(own[:, :rows], non_blocking=True)
    return here.record_event()


@contextmanager
def exchanging(over: str) -> Iterator[None]:
    """What crews exchange."""
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.gpus import GpuCrew
    from wan_s2v_pack.wan_s2v_model.transformer import crew

    work_as, exchange, copy = GpuCrew.work_as, crew.Member.exchange, crew._Links.copy
    GpuCrew.work_as = lambda each, group: work_as(each, replace(group, over="heads" if over == "heads" else "keys"))
    if over == "nothing":
        crew.Member.exchange = lambda *_: lambda: None
    if over == "uncopied":
        crew._Links.copy = copy_own
    try:
        yield
    finally:
        GpuCrew.work_as, crew.Member.exchange, crew._Links.copy = work_as, exchange, copy


@contextmanager
def calls_of(model, config, size: str) -> Iterator[Callable]:
    """The model call of a step, as the sampler makes it, over all GPUs of a MODEL."""
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.gpus import CLONES_KEY, Gpus, gpus_of
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import CONSTANTS_KEY, ClipMemory, with_s2v_forward

    model = with_s2v_forward(model)
    model.match_multigpu_clones()
    patchers = gpus_of(model)
    import comfy.model_management

    comfy.model_management.load_models_gpu(patchers, memory_required=8 * 2**30)
    for patcher in patchers:
        patcher.pre_run()
    call = {"wrappers": model.wrappers, "uuids": [0], "cond_or_uncond": [0], CONSTANTS_KEY: ClipMemory()}
    options = {"transformer_options": {**model.model_options["transformer_options"], **call}}
    if len(patchers) > 1:
        options[CLONES_KEY] = {patcher.load_device: patcher for patcher in patchers}
    gpus, inputs = Gpus(), full_size.make_inputs(size, tiny=config is not full_size.config())
    options = gpus.for_calls(options, 1)["transformer_options"]
    try:
        yield lambda: model.model.apply_model(**inputs, transformer_options=dict(options)).cpu()
    finally:
        gpus.close()
        for patcher in patchers:
            patcher.cleanup()


@contextmanager
def ballast(device, card_gb: float) -> Iterator[int]:
    """Leave so much of a GPU; yields the bytes that are taken."""
    import torch

    size = 0
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(device)
        size = max(0, min(free, int(total - card_gb * GB)))
    held = torch.empty(size, dtype=torch.uint8, device=device)
    yield size
    del held


def relative(one, other) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def print_tables(tables: dict[str, dict[str, Row]]) -> None:
    for title, rows in tables.items():
        first = next(iter(rows.values()))
        print(f"\n{title:40s}{'seconds (min to max)':30s}{'ahead':>9s}  first row / this")
        for name, row in rows.items():
            ratio = statistics.median(first.seconds) / statistics.median(row.seconds)
            difference = relative(row.latents, first.latents)
            print(
                f"{name:40s}{full_size.median_range(row.seconds):30s}{statistics.median(row.ahead):7.3f} s  {ratio:.3f}x   "
                f"latents differ from the first row's by {difference:.1e}"
            )


if __name__ == "__main__":
    main()

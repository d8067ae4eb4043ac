"""Live video with random weights of full size on one GPU or several: frames per second, first frame, memory.

    COMFYUI_PATH=... python bench/live.py                     (with decoding; needs FlashAttention 3: fa3-fwd)
    COMFYUI_PATH=... python bench/live.py --gpus 2            (steps dealt to GPUs, the first of which decodes)
    python bench/live.py --no-decode                          (the network alone, without ComfyUI)
    python bench/live.py --small                              (a trial on the CPU)

Weights are made on the GPU, no file is written but the VAE's. Rows are printed as soon as they are known, the most important ones first; no
row begins after --seconds. Columns: fps (12 frames per block: all its steps and its decode, one behind the other), the same without
decoding; seconds of the sink, from the start to the first frame, of one pass through the network, of Python for one pass (where that is no
less, launches are the limit), of decoding a block; torch's peak of GPU memory, with all weights. On several GPUs both rates are those of a
video that goes on, taken where finished blocks come out; what one pass takes is not asked.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

SIZES = {"704x384": (48, 88), "384x256": (32, 48), "832x480": (60, 104), "1024x704": (88, 128), "64x64": (8, 8)}  # latents
FRAMES = 12  # of a block
FILL = 4  # blocks until the rings are full
SIGMA = 0.02  # of the weights


@dataclass(frozen=True)
class Row:
    """What is measured: a size, the type of products, attention and rings, steps, and whether passes are replayed as CUDA graphs."""

    size: str
    kind: str
    steps: int = 4
    graphs: bool = False

    @property
    def blocks_to_warm(self) -> int:
        """Until the rings are full, and graphs recorded: that is when a block comes to the same place for the second time."""
        return 3 * FILL if self.graphs else FILL

    def __str__(self) -> str:
        return f"{self.size} {self.kind}, {self.steps} steps{', graphs' if self.graphs else ''}"


ROWS = (
    Row("704x384", "fp8", 3, graphs=True),
    Row("384x256", "fp8", graphs=True),
    Row("704x384", "fp8", graphs=True),
    Row("704x384", "fp8", 3),
    Row("384x256", "fp8"),
    Row("832x480", "fp8", graphs=True),
    Row("1024x704", "fp8", graphs=True),
    Row("704x384", "bf16"),
    Row("704x384", "fp8"),
    Row("832x480", "bf16"),
    Row("384x256", "bf16", graphs=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ROWS)), help="numbers of the rows, from 0")
    parser.add_argument("--blocks", type=int, default=6, help="that are measured, behind four that fill the rings")
    parser.add_argument("--seconds", type=float, default=1e9, help="no row begins later")
    parser.add_argument("--no-decode", action="store_true", help="without VAE and ComfyUI")
    parser.add_argument("--vae-dtype", default="bf16")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a tiny model on the CPU")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = [Row("64x64", "bf16"), Row("64x64", "fp8", 3)] if arguments.small else [ROWS[index] for index in arguments.rows]
    if arguments.no_decode:
        comfy_runtime.register_pack()
        bridge = None
    else:
        bridge = comfy_runtime.start(dynamic_vram=False)
    import torch

    with torch.inference_mode(), loaded_vae(bridge, arguments) as vae:
        bench = Bench(vae, bridge, arguments)
        print(f"ready after {time.perf_counter() - start:.1f} s\n", flush=True)
        print(f"{'':34}{'fps':>7}{'network':>9}{'sink':>8}{'first':>8}{'pass':>8}{'Python':>8}{'decode':>8}{'peak GB':>9}", flush=True)
        for row in rows:
            if time.perf_counter() - start < arguments.seconds:
                bench.measure(row)


@contextmanager
def loaded_vae(bridge, arguments):
    """A VAE with random weights, or None."""
    if bridge is None:
        yield None
        return
    import vae_decode

    if arguments.small:
        vae_decode.FULL_SIZE["dim"] = 8
    with tempfile.TemporaryDirectory() as folder:
        yield bridge.load_vae(vae_decode.write_vae(Path(folder) / "vae.safetensors"), "fp32" if arguments.small else arguments.vae_dtype)


class Bench:
    """One set of weights, with which all rows are measured."""

    def __init__(self, vae, bridge, arguments):
        import full_size
        import torch
        from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer

        self.vae, self.bridge, self.arguments = vae, bridge, arguments
        kind = torch.device(full_size.device()).type
        self.devices = [torch.device(kind, index) if kind == "cuda" else torch.device(kind) for index in range(arguments.gpus)]
        self.device = self.devices[0]
        self.dtype = torch.float32 if arguments.small else torch.bfloat16
        self.transformers = []
        for device in self.devices:
            transformer = WanS2VTransformer(full_size.config(arguments.small), dtype=self.dtype, device="meta")
            transformer.to_empty(device=device).requires_grad_(False)
            for name, parameter in transformer.named_parameters():
                parameter.normal_(std=SIGMA)
                if "norm" in name and name.endswith("weight"):
                    parameter += 1
            self.transformers.append(transformer)
        self._float8 = functools.cache(quantised)

    @contextmanager
    def float8_weights_of(self, layer, dtype, device):
        yield self._float8(layer)

    def measure(self, row: Row) -> None:
        try:
            values = self._measured(row)
        except RuntimeError as error:  # out of memory, or a kernel that is not there: the other rows go on
            print(f"{row!s:34}{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}", flush=True)
            return
        finally:
            free_memory(self)
        print(f"{row!s:34}" + "".join(f"{value:{width}.{digits}f}" for value, width, digits in values), flush=True)

    def _measured(self, row: Row) -> list[tuple[float, int, int]]:
        return self._measured_on_one(row) if len(self.devices) == 1 else self._measured_on_several(row)

    def _measured_on_several(self, row: Row) -> list[tuple[float, int, int]]:
        with Pipeline(self, row).sampler() as run:
            run.begin()
            reset_peak(self)
            sink = timed(self, run.begin)[0]
            first = sink + timed(self, lambda: next(run.blocks(1)))[0]
            fps = [FRAMES / run.seconds_of_block(decodes) for decodes in (True, False)]
        unknown = float("nan")
        return [(fps[0], 7, 2), (fps[1], 9, 2), *((value, 8, 3) for value in (sink, first, *[unknown] * 3)), (peak_gigabytes(self), 9, 1)]

    def _measured_on_one(self, row: Row) -> list[tuple[float, int, int]]:
        run = Run(self, row)
        run.begin()
        run.block(0)  # kernels are built
        reset_peak(self)
        sink = timed(self, run.begin)[0]
        first = sink + timed(self, lambda: run.block(0))[0]
        warm = row.blocks_to_warm
        for index in range(1, warm):
            run.block(index)
        seconds = [run.timed_block(index) for index in range(warm, warm + self.arguments.blocks)]
        network, python, decode = (statistics.median(column) for column in zip(*seconds, strict=True))
        whole = network * row.steps + decode
        fps = [(FRAMES / whole, 7, 2), (FRAMES / (network * row.steps), 9, 2)]
        return [*fps, *((value, 8, 3) for value in (sink, first, network, python, decode)), (peak_gigabytes(self), 9, 1)]


class Run:
    """One video of a row."""

    def __init__(self, bench: Bench, row: Row):
        import torch

        self.bench, self.row, self.size = bench, row, SIZES[row.size]
        self.config = bench.transformers[0].config
        self.video = self.network(0, range(row.steps))
        from wan_s2v_pack.wan_s2v_model.sampling.live import live_sigmas

        self.sigmas = live_sigmas(row.steps)
        generator = torch.Generator(bench.device).manual_seed(1)
        self.random = functools.partial(torch.randn, generator=generator, device=bench.device)
        self.anchor = self.random(1, 16, 1, *self.size), self.random(1, 16, 19, *self.size), self.random(1, 512, self.config.text_dim)

    def network(self, gpu: int, steps: range):
        """The network with these steps on a GPU."""
        from wan_s2v_pack.wan_s2v_model.transformer.causal import CausalVideo, Engine
        from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement

        bench, row = self.bench, self.row
        engine = Engine(self.compute, dtype=bench.dtype, device=bench.devices[gpu], graphs=row.graphs)
        placement = Placement(float8=row.kind == "fp8")
        return CausalVideo(bench.transformers[gpu], self.size, engine, steps=steps, placement=placement)

    def compute(self):
        from wan_s2v_pack.wan_s2v_model.kernels.linears import EXACT, Float8Linears
        from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute

        is_float8 = self.row.kind == "fp8"
        linears = Float8Linears(self.bench.dtype, self.bench.float8_weights_of) if is_float8 else EXACT
        return Compute(attention=attention(self.bench, is_float8), linears=linears)

    def begin(self) -> None:
        """Empty rings, sink, and a decoder behind the oldest seven motion latents."""
        self.video.clear()
        self.video.set_anchor(*self.anchor)
        self.open_decoder()

    def open_decoder(self) -> None:
        if self.bench.vae is not None:
            self.decoder = self.bench.bridge.LiveDecoder(self.bench.vae, *self.size)
            self.decoder(self.anchor[1][:, :, :7])

    def block(self, index: int) -> None:
        self.decode(self.sample(index))

    def sample(self, index: int):
        x, sound = self.random(16, 3, *self.size), self.random(25, self.config.audio_dim, FRAMES)
        for step in range(self.row.steps):
            velocity = self.video.forward(x, step, 1000 * self.sigmas[step], 3 * index, 4 + (5 * index + step) % 27, sound)
            x = x + (self.sigmas[step + 1] - self.sigmas[step]) * velocity
        return x

    def decode(self, x) -> None:
        if self.bench.vae is not None:
            self.decoder(x[None])

    def timed_block(self, index: int) -> tuple[float, float, float]:
        """Seconds of one pass, of Python for one pass, and of decoding."""
        network, python, x = timed(self.bench, lambda: self.sample(index))
        return network / self.row.steps, python / self.row.steps, timed(self.bench, lambda: self.decode(x))[0]


class Pipeline(Run):
    """One video of a row on all GPUs."""

    def network(self, gpu: int, steps: range):
        return None  # made in `sampler`, each with its own steps

    @contextmanager
    def sampler(self):
        """This, ready to sample; its threads end with the context."""
        from wan_s2v_pack.wan_s2v_model.sampling.live import Heard, Told
        from wan_s2v_pack.wan_s2v_model.sampling.pipeline import LiveTeam, deal_steps, describe_steps
        from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt

        dealt = deal_steps(self.row.steps, len(self.bench.devices))
        networks = [super(Pipeline, self).network(gpu, steps) for gpu, steps in enumerate(dealt) if steps]
        sound = self.random(25, self.config.audio_dim, FRAMES)
        told = Told(self.anchor[2], lambda block: Heard(sound.clone()), lambda block, step: 4 + (5 * block + step) % 27)
        crew = Crew(self.bench.devices[: len(dealt)], Halt())
        print(describe_steps(dealt, len(self.bench.devices)), flush=True)
        try:
            self.team, self.next = LiveTeam(dealt, networks, crew).sampler(told, self.sigmas, lambda *_: None), 0
            yield self
        finally:
            crew.close()

    def begin(self) -> None:
        from wan_s2v_pack.wan_s2v_model.sampling.live import Anchor, LiveState

        self.next = 0
        self.team.begin(LiveState(0, Anchor(*self.anchor[:2])))
        self.open_decoder()

    def blocks(self, count: int, decodes: bool = True):
        """Give the numbers of some more blocks, each when it is decoded."""
        numbers = range(self.next, self.next + count)
        self.next += count
        for block in self.team.sample(numbers, lambda number: self.random(16, 3, *self.size)):
            if decodes:
                self.decode(block.latents)
            yield block.index

    def seconds_of_block(self, decodes: bool) -> float:
        """From one to the next, where the rings are full and all GPUs have something to do."""
        warm, behind, times = self.row.blocks_to_warm, len(self.bench.devices), []
        for _ in self.blocks(warm + self.bench.arguments.blocks + behind, decodes):
            times.append(time.perf_counter())
        return (times[-1 - behind] - times[warm - 1]) / self.bench.arguments.blocks


def reset_peak(bench: Bench) -> None:
    if bench.device.type == "cuda":
        import torch

        for device in bench.devices:
            torch.cuda.reset_peak_memory_stats(device)


def free_memory(bench: Bench) -> None:
    """A video and what computes it know each other: its rings are free only behind a collection."""
    import gc

    gc.collect()
    if bench.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def timed(bench: Bench, work):
    """Seconds until all is done, seconds until Python has asked for all, and the result."""
    finish(bench)
    start = time.perf_counter()
    result = work()
    asked = time.perf_counter() - start
    finish(bench)
    return time.perf_counter() - start, asked, result


def finish(bench: Bench) -> None:
    if bench.device.type == "cuda":
        import torch

        for device in bench.devices:
            torch.cuda.synchronize(device)


def peak_gigabytes(bench: Bench) -> float:
    if bench.device.type != "cuda":
        return 0.0
    import torch

    return max(map(torch.cuda.max_memory_allocated, bench.devices)) / 1e9


def attention(bench: Bench, float8: bool):
    """FlashAttention 3, in float8 where keys are many; PyTorch's on the CPU."""
    from wan_s2v_pack.wan_s2v_model.transformer.attention_check import FEW_KEYS
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import FLOAT8_BEYOND, sdpa

    if bench.device.type != "cuda":
        return sdpa
    from fa3_fwd_interface import flash_attn_func

    def run(q, k, v, heads, **_):
        if not hasattr(q, "scale"):
            return flash_attn_func(*(part.unflatten(-1, (heads, -1)) for part in (q, k, v))).flatten(2)
        scales = {"q_descale": q.scale, "k_descale": k.scale, "v_descale": v.scale}
        return flash_attn_func(q.values, k.values, v.values, **scales).flatten(2)

    if float8:
        setattr(run, FLOAT8_BEYOND, FEW_KEYS)
    return run


def quantised(layer):
    """The weight of a layer in float8, made once, as a file in float8 has it."""
    from wan_s2v_pack.wan_s2v_model.kernels.linears import quantise_rows

    return quantise_rows(layer.weight), layer.bias


if __name__ == "__main__":
    main()

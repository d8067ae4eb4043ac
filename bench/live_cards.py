"""Live video on a card of which only a part is left, through ComfyUI's memory management: frames per second, first frame, memory.

    COMFYUI_PATH=... python bench/live_cards.py --weights /path/with/40/GB --layout bf16 --cards 0 80 48 24
    python bench/live_cards.py --tiny                         (a trial on the CPU)

A smaller card is made by a ballast allocation: what is left, CUDA context included, is what such a card has. 0: the whole card. Where the
rings lie is planned as *Sample Video Live* plans it. Rates are those of blocks behind full rings, sampled and decoded one behind the other.
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size
import vae_decode

GB = 1e9
FULL_AFTER = 4  # blocks
GRAPHS_AFTER = 12  # a pass is recorded when a block comes to the same place of the rings for the second time
FRAMES = 12  # of a block
SMALL = "64x64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--size", default="704x384", help="pixels, multiples of 64")
    parser.add_argument("--cards", nargs="+", type=float, default=[0], help="GB (10^9 bytes)")
    parser.add_argument("--memory", choices=("full", "float8"), default="full")
    parser.add_argument("--speed", default="exact", help="as in Load Wan S2V Model")
    parser.add_argument("--steps", type=int, choices=(4, 3), default=4)
    parser.add_argument("--blocks", type=int, default=3, help="that are measured, behind four that fill the rings")
    parser.add_argument("--no-offload", action="store_true", help="with offload switched off: passes are replayed as CUDA graphs")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not (arguments.tiny or arguments.no_offload))
    import torch

    logging.basicConfig(level=logging.INFO, format="    log: %(message)s", force=True)
    logging.getLogger("comfy_aimdo").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = Path(folder) if arguments.tiny else arguments.weights
        if arguments.tiny:
            arguments.size, vae_decode.FULL_SIZE["dim"] = SMALL, 8
        path = full_size.checkpoint(weights, arguments.layout, arguments.tiny)
        options = {**full_size.OPTIONS, "speed": arguments.speed}
        model = bridge.load_diffusion_model(str(path), options, offload=not arguments.no_offload)
        vae = bridge.load_vae(vae_decode.write_vae(Path(folder) / "vae.safetensors"), "fp32" if arguments.tiny else "bf16")
        for card in arguments.cards:
            measure(bridge, model, vae, card, arguments)


def measure(bridge, model, vae, card_gb: float, arguments) -> None:
    """Make the first blocks of a video with so much GPU memory; print a row."""
    full_size.unload_everything()
    label = f"{arguments.size} {arguments.layout}, {arguments.memory}, {arguments.steps} steps, {card_gb:g} GB"
    try:
        with ballast(card_gb) as ballast_bytes, full_size.PeakMemory(ballast_bytes) as peak:
            first, seconds = make_blocks(bridge, model, vae, arguments)
    except (RuntimeError, ValueError) as error:  # too little memory, said before or noticed: the other rows go on
        print(f"{label}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        return
    rate, spread = FRAMES / statistics.median(seconds), full_size.median_range(seconds)
    print(f"{label}: {rate:6.2f} frames/s, a block {spread}, first frame {first:.2f} s, peak {peak.bytes / GB:.2f} GB", flush=True)


@contextmanager
def ballast(card_gb: float):
    """Leaves so much of the GPU, or all of it for 0; gives the bytes that are taken."""
    import torch

    if not (card_gb and torch.cuda.is_available()):
        yield 0
        return
    size = int(torch.cuda.mem_get_info()[1] - card_gb * GB)
    taken = torch.empty(size, dtype=torch.uint8, device="cuda")
    yield size
    del taken


def make_blocks(bridge, model, vae, arguments) -> tuple[float, list[float]]:
    """Seconds from an empty memory of the video to its first frame, and of each measured block."""
    from wan_s2v_pack.wan_s2v_model.cost.live import LiveWork
    from wan_s2v_pack.wan_s2v_model.sampling.live import live_sigmas

    width, height = map(int, arguments.size.split("x"))
    warm = GRAPHS_AFTER if arguments.no_offload else FULL_AFTER
    work = LiveWork(height, width, arguments.steps, warm + arguments.blocks, float8=arguments.memory == "float8")
    placement = bridge.place_rings(model, vae, work)
    bridge.take_others_off_gpu(model, vae.patcher)
    video = RandomVideo(bridge.live_config(model), height // 8, width // 8)
    with bridge.live_team(model, vae, bridge.LivePlan(height // 8, width // 8, arguments.steps, placement)) as team:
        sampler = team.sampler(video.told(), live_sigmas(arguments.steps), lambda *_: None)
        list(frames(bridge, sampler, vae, video, 1))  # kernels are built
        start = time.perf_counter()
        ends = [time.perf_counter() for _ in frames(bridge, sampler, vae, video, warm + arguments.blocks)]
    measured = ends[warm - 1 :]
    return ends[0] - start, [end - begin for begin, end in itertools.pairwise(measured)]


class RandomVideo:
    """Inputs of a live video, of a size in latents."""

    def __init__(self, config, height: int, width: int):
        import torch

        self.config, self.height, self.width = config, height, width
        self._generator = torch.Generator().manual_seed(1)

    def random(self, *shape):
        import torch

        return torch.randn(shape, generator=self._generator)

    def told(self):
        from wan_s2v_pack.wan_s2v_model.sampling.live import Heard, Told, picture_distance

        context, sound = self.random(1, 512, self.config.text_dim), self.random(25, self.config.audio_dim, FRAMES)
        return Told(context, lambda block: Heard(sound), lambda block, step: picture_distance(1, block, step))

    def anchor(self):
        from wan_s2v_pack.wan_s2v_model.sampling.live import Anchor

        return Anchor(self.random(1, 16, 1, self.height, self.width), self.random(1, 16, 19, self.height, self.width))


def frames(bridge, sampler, vae, video: RandomVideo, blocks: int):
    """Yield the frames of one block after the other, from an empty memory on."""
    from wan_s2v_pack.wan_s2v_model.sampling.live import PRIMING_LATENTS, LiveState

    anchor = video.anchor()
    sampler.begin(LiveState(0, anchor))
    decoder = bridge.LiveDecoder(vae, video.height, video.width)
    decoder(anchor.motion_latents[:, :, :PRIMING_LATENTS])
    for block in sampler.sample(range(blocks), lambda number: video.random(16, 3, video.height, video.width)):
        yield decoder(block.latents[None])


if __name__ == "__main__":
    main()

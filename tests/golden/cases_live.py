"""Kind `live`: Live-Avatar's causal inference, single passes of the network and whole runs."""

import importlib
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...wan_s2v_model.audio import features
from ...wan_s2v_model.conditioning.picture import fit_image, size_within_area
from ...wan_s2v_model.conditioning.timeline import Timeline, plan_timeline
from ...wan_s2v_model.constants import DROPPED_FRAMES, LIVE_FPS, MOTION_LATENTS, SAMPLE_RATE_HZ, TEMPORAL_STRIDE
from ...wan_s2v_model.kernels.fused import apply_rope, rms_norm_rope
from ...wan_s2v_model.sampling.live import (
    CLIP_FRAMES,
    FIRST_LATENT,
    PICTURE,
    PICTURE_HISTORY,
    PRIMING_LATENTS,
    Anchor,
    Heard,
    LiveBlock,
    LiveSampler,
    LiveState,
    Told,
    first_anchor,
    first_latent_anchor,
    live_blocks,
    official_sigmas,
)
from ...wan_s2v_model.transformer.causal import BLOCK_LATENTS, CausalVideo
from ...wan_s2v_model.transformer.model import WanS2VTransformer
from ...wan_s2v_model.transformer.rings import KEYS, VALUES
from ...wan_s2v_model.transformer.speakers import Regions
from .case import EXACT, Case, Measured, Row, compare_column, difference, failure
from .cases_audio import load_encoder
from .cases_e2e import load_model
from .cases_forward import load_weights
from .cases_vae import load_vae, to_video
from .comfyui import comfy_bridge

VELOCITY_TOLERANCE = 5e-5
LATENTS_TOLERANCE = 2e-4
KEPT_TOLERANCE = 5e-5  # keys and values of sink and ring
ROPE_TOLERANCE = 1e-6
SIGMA_TOLERANCE = 1e-6
TIMESTEP_TOLERANCE = 1e-4
AUDIO_TOLERANCE = 5e-4
VAE_TOLERANCE = 2e-5
VIDEO_TOLERANCE = 5e-4
MERGE_TOLERANCE = 1e-6
MERGED = "merged:"
WAV2VEC, VAE = "audio/tiny_wav2vec2", "tiny_wan21_vae.safetensors"
STRIDE = 8  # pixels per latent
DEFAULT_WEIGHTS = "tiny_s2v"


def is_case(metadata: dict[str, Any]) -> bool:
    """Whether a file beside the folders is a live case, by its metadata."""
    return any(setting in metadata for setting in ("window", "infer_frames", "factor"))


def replay(case: Case) -> Iterator[Row]:
    if "factor" in case.metadata:
        yield from _replay_lora(case)
    else:
        yield from _replay_run(case) if "infer_frames" in case.metadata else _replay_passes(case)


def network(case: Case, rounds_rope: bool = True, **options: Any) -> CausalVideo:
    """The network of a case, in float32."""
    height, width = (side // STRIDE for side in case.setting("size_hw"))
    options = {"window": case.setting("latents_per_clip"), **options}
    model = _model(case.models / f"{case.setting('weights', DEFAULT_WEIGHTS)}.safetensors")
    return CausalVideo(model, (height, width), rounds_rope=rounds_rope, **options)


@cache
def _model(path: Path) -> WanS2VTransformer:
    config, state_dict = load_weights(path)
    model = WanS2VTransformer(config, device="meta")
    model.load_state_dict(state_dict, assign=True)
    return model.requires_grad_(False)


def _replay_passes(case: Case) -> Iterator[Row]:
    """One step of some blocks that follow each other, behind a ring of zeros that count as soon as it can be full."""
    video = network(case, steps=[0])
    video.clear(start=0)
    video.set_anchor(case.input("in.ref_latents"), case.input("in.motion_latents"), case.input("in.context")[None])
    distances, masks = case.input("anchor_distance"), case.optional_input("in.speaker_masks")
    regions = None if masks is None else Regions(masks[..., 0])
    measured = {}
    for block in range(case.setting("blocks")):
        name, first = f"block{block}", case.setting("first_latent") + BLOCK_LATENTS * block
        audio, pose = case.input(f"{name}.audio"), case.input(f"{name}.pose")
        x, timestep = case.input(f"{name}.x"), case.setting("timestep")
        velocity = video.forward(x, 0, timestep, first, int(distances[block]), audio if regions else audio[0], pose, regions)
        measured[f"{name}.velocity"] = Measured(velocity, VELOCITY_TOLERANCE)
    yield from case.compare(measured)


@dataclass
class Recorder:
    """Runs a case and collects what passes by, under the names of the stored tensors."""

    case: Case
    video: CausalVideo
    measured: dict[str, Measured] = field(default_factory=dict)
    velocities: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    sinks: int = 0

    def clear(self) -> None:
        self.video.clear()

    def set_anchor(self, picture_latent: Tensor, motion_latents: Tensor, context: Tensor) -> None:
        self.video.set_anchor(picture_latent, motion_latents, context)
        name, last = f"sink{self.sinks}", len(self.video.rings[0].memories._memories) - 1
        self.measured[f"{name}.ref_latents"] = Measured(picture_latent, LATENTS_TOLERANCE)
        self.measured[f"{name}.motion_latents"] = Measured(motion_latents, LATENTS_TOLERANCE)
        for layer in (0, last):
            keys, values = unrotated_sink(self.video, layer)
            self.measured[f"{name}.layer{layer}.k"] = Measured(keys, KEPT_TOLERANCE)
            self.measured[f"{name}.layer{layer}.v"] = Measured(values, KEPT_TOLERANCE)
        self.sinks += 1

    def forward(self, x: Tensor, step: int, timestep: float, first_latent: int, *arguments: Any) -> Tensor:
        velocity = self.video.forward(x, step, timestep, first_latent, *arguments)
        self.velocities[first_latent // BLOCK_LATENTS, step] = velocity
        return velocity


def unrotated_sink(video: CausalVideo, layer: int) -> tuple[Tensor, Tensor]:
    """Keys before their rotation and values of the sink, each [S, heads, head_dim], as the reference keeps them."""
    rows, (cos, sin) = video._shape.sink, video._rotations.sink
    memory = next(iter(video.rings.values())).memories.open(layer, rows)[:, 0, :rows]
    keys, values = memory.unflatten(-1, (video._transformer.config.num_heads, -1))
    size = cos**2 + sin**2  # not 1 where they are rounded
    keys = apply_rope(keys[None], cos / size, -sin / size)[0]
    attention, picture = video._transformer.blocks[layer].self_attn, video._picture_keys[layer]
    own = rms_norm_rope(picture.clone(), attention.norm_k.weight, attention.eps, None).unflatten(-1, keys.shape[1:])[0]
    return torch.cat([own, keys[len(own) :]]), values.clone()


def sampler(case: Case, network: Any, sigmas: list[float]) -> LiveSampler:
    """The sampler of a run, told what the case holds."""
    blocks, frames = case.setting("blocks_per_clip"), 4 * BLOCK_LATENTS
    sound, distances = case.input("in.audio_embedding")[0], _of_clips(case, "anchor_distance", torch.cat)
    poses = _of_clips(case, "pose_latents", lambda clips: torch.cat(clips, dim=2)) if "clip0.pose_latents" in case.tensors else None

    def pose(block: int) -> Tensor | None:
        return None if poses is None else poses[:, :, BLOCK_LATENTS * block : BLOCK_LATENTS * (block + 1)]

    assert len(distances) == blocks * case.setting("clips")
    told = Told(
        case.input("in.context")[None],
        of_block=lambda block: Heard(sound[..., frames * block : frames * (block + 1)], pose(block)),
        distance=lambda block, step: int(distances[block, step]),
    )
    return LiveSampler(network, told, sigmas)


def _of_clips(case: Case, name: str, join: Callable[[list[Tensor]], Tensor]) -> Tensor:
    return join([case.input(f"clip{clip}.{name}") for clip in range(case.setting("clips"))])


def run(case: Case, network: Any, anchor: Anchor, next_anchor: Callable[[LiveState], Anchor] | None) -> list[LiveBlock]:
    """All blocks of a run."""
    noise, blocks = _of_clips(case, "noise", lambda clips: torch.cat(clips, dim=1)), case.setting("blocks_per_clip")
    steps = len(case.tensors["timesteps"])
    found = live_blocks(
        sampler(case, network, official_sigmas(steps)),
        LiveState(0, anchor),
        blocks * case.setting("clips"),
        lambda block: noise[:, BLOCK_LATENTS * block : BLOCK_LATENTS * (block + 1)],
        next_anchor=next_anchor,
        clip_blocks=blocks,
    )
    return [block for block, _ in found]


def _replay_run(case: Case) -> Iterator[Row]:
    """A whole run: picture and sound through our encoders, blocks from the stored noise, decoded as its pipeline decodes."""
    for name in [name for name in case.tensors if name.startswith("in.")]:
        case.input(name)
    steps, filmed = len(case.tensors["timesteps"]), Filmed(case)
    yield from _check_settings(case)
    sigmas = torch.tensor(official_sigmas(steps), dtype=torch.float64)
    anchor, next_anchor = Anchor(case.input("in.ref_latents"), case.input("in.motion_latents")), filmed.next_anchor()
    recorder = Recorder(case, network(case, steps=range(steps)))
    blocks = run(case, recorder, anchor, next_anchor)
    exact = run(case, network(case, rounds_rope=False, steps=range(steps)), anchor, next_anchor)
    turned = recorder.video._rotations.at(range(BLOCK_LATENTS, 2 * BLOCK_LATENTS))
    measured = {
        **recorder.measured,
        **filmed.first_anchor(),
        **_of_blocks(case, blocks, exact, recorder.velocities),
        **_rings(case, recorder.video),
        **(filmed.video(blocks) if "video_pool8" in case.tensors else {}),
        "sigmas": Measured(sigmas, SIGMA_TOLERANCE),
        "timesteps": Measured(1000 * sigmas[:-1], TIMESTEP_TOLERANCE),
        "rope.block1": Measured(torch.stack(turned, dim=-1), ROPE_TOLERANCE),
    }
    yield from case.compare(measured)


def _check_settings(case: Case) -> Iterator[Row]:
    """What the pack derives of picture and sound: size, clips, and what is heard of the sound."""
    size = size_within_area(*case.tensors["in.image_u8"].shape[:2], case.setting("max_area"))
    yield compare_column(case.name, "metadata size_hw", {"size_hw": (size, case.setting("size_hw"))})
    samples = case.tensors["in.wave_i16"].float() / 32768
    timeline = _timeline(len(samples), case.setting("infer_frames"))
    yield compare_column(case.name, "in.num_clips_of_audio", {"clips": (timeline.num_clips, int(case.tensors["in.num_clips_of_audio"]))})
    rows = features.resample_rows(features.hidden_states(load_encoder(case.models / WAV2VEC), features.normalise(samples)))
    heard = features.gather_frames(features.pick_frames(rows, LIVE_FPS), _slots(timeline))
    error, note = difference(heard, case.tensors["in.audio_embedding"])
    yield Row(case.name, "in.audio_embedding", error, AUDIO_TOLERANCE, note)


def _timeline(num_samples: int, frames_per_clip: int) -> Timeline:
    options = {"sync_mode": "official", "frames_per_clip": frames_per_clip, "fps": LIVE_FPS}
    return plan_timeline(num_samples, SAMPLE_RATE_HZ, num_samples, **options)


def _slots(timeline: Timeline) -> list[int | None]:
    return [frame for clip in range(timeline.num_clips) for frame in timeline.audio_frames(clip)]


class Filmed:
    """Picture and video of a run, through the VAE."""

    def __init__(self, case: Case):
        self.case, self.vae = case, load_vae(case.models / VAE)
        height, width = case.setting("size_hw")
        self.picture = fit_image(case.tensors["in.image_u8"].float() / 255, height, width, cover=False)
        self.is_single = case.setting("pipeline") == "single"

    def encode(self, frames: Tensor) -> Tensor:
        return comfy_bridge().encode_pixels(self.vae, frames)

    def first_anchor(self) -> dict[str, Measured]:
        anchor = first_anchor(PICTURE if self.is_single else FIRST_LATENT, self.picture, self.encode)
        return {
            "sink0.ref_latents": Measured(anchor.picture_latent, VAE_TOLERANCE),
            "sink0.motion_latents": Measured(anchor.motion_latents, VAE_TOLERANCE),
        }

    def next_anchor(self) -> Callable[[LiveState], Anchor] | None:
        """What becomes of the anchor behind the first clip."""
        if self.case.setting("sinks") == 1:
            return None
        return self._with_motion if self.is_single else first_latent_anchor

    def _with_motion(self, state: LiveState) -> Anchor:
        """As the official code does on one GPU where it decodes at once: the motion is that of the first clip, too."""
        clip = torch.cat([block.latents for block in state.recent], dim=1)
        history = self._clips([clip])[1]
        return first_latent_anchor(state)._replace(motion_latents=self.encode(history)[:, :, -MOTION_LATENTS:])

    def video(self, blocks: list[LiveBlock]) -> dict[str, Measured]:
        """The frames, decoded as its pipeline does, and what of them is stored."""
        per_clip = self.case.setting("blocks_per_clip")
        clips = [
            torch.cat([block.latents for block in blocks[first : first + per_clip]], dim=1) for first in range(0, len(blocks), per_clip)
        ]
        frames, _, measured = self._clips(clips) if self.is_single else (self._streamed(blocks), None, {})
        video = to_video(frames)
        index = self.case.input("video_frames_index")
        return {
            **measured,
            "video_frames": Measured(video[:, index], VIDEO_TOLERANCE),
            "video_pool8": Measured(F.avg_pool2d(video, STRIDE), VIDEO_TOLERANCE),
        }

    def _streamed(self, blocks: list[LiveBlock]) -> Tensor:
        decoder = comfy_bridge().LiveDecoder(self.vae, *blocks[0].latents.shape[2:])
        decoder(self.case.tensors["in.motion_latents"][:, :, :PRIMING_LATENTS])
        return torch.cat([decoder(block.latents[None]) for block in blocks])[DROPPED_FRAMES:]

    def _clips(self, clips: list[Tensor]) -> tuple[Tensor, Tensor, dict[str, Measured]]:
        """Each clip behind the whole history, encoded again: all frames, the history at the end, and what the VAE was given."""
        history, frames, counts, measured = self.picture.expand(PICTURE_HISTORY, *self.picture.shape), [], [], {}
        for number, clip in enumerate(clips):
            given = torch.cat([self.encode(history), clip[None]], dim=2)
            decoded = comfy_bridge().decode_latents(self.vae, given)
            new = decoded[-TEMPORAL_STRIDE * clip.shape[1] :][DROPPED_FRAMES if number == 0 else 0 :]
            history = torch.cat([history, new])[-PICTURE_HISTORY:]
            frames.append(new)
            counts.append(len(decoded))
            measured[f"decode{number}.latents_shape"] = Measured(torch.tensor(given.shape[1:]), EXACT)
        measured["decode.frames_out"] = Measured(torch.tensor(counts), EXACT)
        return torch.cat(frames), history, measured


def _of_blocks(case: Case, blocks: list[LiveBlock], exact: list[LiveBlock], velocities: dict) -> dict[str, Measured]:
    """Latents and velocities of each clip, blocks side by side."""
    measured, per_clip = {}, case.setting("blocks_per_clip")
    for clip in range(case.setting("clips")):
        part = slice(clip * per_clip, (clip + 1) * per_clip)
        numbers, name = range(len(blocks))[part], f"clip{clip}"
        latents = {"latents_out": blocks, "latents_out_exact_rope": exact}
        for key, found in latents.items():
            measured[f"{name}.{key}"] = Measured(torch.cat([block.latents for block in found[part]], dim=1), LATENTS_TOLERANCE)
        for step in range(len(blocks[0].inputs)):
            given = torch.cat([block.inputs[step] for block in blocks[part]], dim=1)
            measured[f"{name}.latents_before_step{step}"] = Measured(given, LATENTS_TOLERANCE)
            measured[f"{name}.velocity_step{step}"] = Measured(
                torch.cat([velocities[block, step] for block in numbers], dim=1), VELOCITY_TOLERANCE
            )
    return measured


def _rings(case: Case, video: CausalVideo) -> dict[str, Measured]:
    """Keys and values of the rings at the end, and which latent is in which slot."""
    window, sink, total = case.setting("latents_per_clip"), video._shape.sink, case.setting("latents_per_clip") * case.setting("clips")
    slots = torch.tensor([max(latent for latent in range(total) if latent % window == slot) for slot in range(window)])
    measured = {"kv.frame_of_slot": Measured(slots, EXACT)}
    for name in case.tensors:
        if match := re.fullmatch(r"kv\.step(\d+)\.layer(\d+)\.([kv])", name):
            memory = video.rings[int(match[1])].memories.open(int(match[2]), 0)[KEYS if match[3] == "k" else VALUES, 0, sink:]
            measured[name] = Measured(memory.unflatten(-1, (video._transformer.config.num_heads, -1)), KEPT_TOLERANCE)
    return measured


def _replay_lora(case: Case) -> Iterator[Row]:
    """The weights that our LoRA node gives; the file itself is a LoRA with some merged weights beside it."""
    merged = {name: case.tensors[name] for name in case.tensors if name.startswith(MERGED)}
    adapter = {name: tensor for name, tensor in case.tensors.items() if name not in merged}
    for name in adapter:
        case.input(name)
    path = case.models / case.setting("base")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "liveavatar.safetensors"
        save_file(adapter, file)
        patched, report = comfy_bridge().apply_lora(load_model(path), str(file), 1.0)
    calculate_weight = importlib.import_module("comfy.lora").calculate_weight
    weights = load_weights(path)[1]
    measured = {}
    for name in merged:
        key = name.removeprefix(MERGED)
        weight = calculate_weight(patched.patches[f"diffusion_model.{key}"], weights[key].clone(), key)
        measured[name] = Measured(weight, MERGE_TOLERANCE)
    yield from case.compare(measured)
    yield Row(case.name, "report", float(f"times {case.setting('factor'):g}" not in report), EXACT, f"factor {case.setting('factor')}")


def replay_audio_rows(root: Path, path: Path) -> Iterator[Row]:
    """For numbers of rows at 30 Hz: how many clips there are, and which row each frame takes."""
    table, clips, rows = json.loads(path.read_text()), {}, {}
    for count, expected in table.items():
        timeline = _timeline(_samples_for(int(count)), CLIP_FRAMES)
        clips[count] = timeline.num_clips, expected["clips"]
        heard = [-1 if frame is None else features.row_of_frame(frame, LIVE_FPS) for frame in _slots(timeline)]
        rows[count] = heard, expected["rows"]
    name = path.relative_to(root).as_posix()
    yield compare_column(name, "clips", clips)
    yield compare_column(name, "rows", rows)


def _samples_for(rows: int) -> int:
    """The shortest sound at 16 kHz with so many rows at 30 Hz."""
    return next(samples for samples in itertools.count(400, 320) if features.num_audio_rows(features.num_wav2vec_frames(samples)) == rows)


def replay_schedule(root: Path, path: Path) -> Iterator[Row]:
    """Noise levels and timesteps of each number of steps."""
    table = json.loads(path.read_text())
    sigmas = {steps: official_sigmas(int(steps)) for steps in table}
    timesteps = {steps: [1000 * sigma for sigma in levels[:-1]] for steps, levels in sigmas.items()}
    for column, ours, tolerance in (("sigmas", sigmas, SIGMA_TOLERANCE), ("timesteps", timesteps, TIMESTEP_TOLERANCE)):
        pairs = {steps: (ours[steps], row[column]) for steps, row in table.items()}
        yield compare_column(path.relative_to(root).as_posix(), column, pairs, tolerance)


def replay_sensitivity(root: Path, path: Path) -> Iterator[Row]:
    """The table of deliberate mistakes is for the tests; here it only has to be one."""
    name, table = path.relative_to(root).as_posix(), json.loads(path.read_text())["mistakes"]
    if all(isinstance(change["max"], float) for change in table.values()):
        yield Row(name, "mistakes", 0.0, None, f"{len(table)} deliberate mistakes; nothing to compute")
    else:
        yield failure(name, "mistakes", "expected {mistake: {max: change of the latents}}")

"""Kind `e2e`: whole videos through the nodes, the clip loop and ComfyUI's sampling, from the stored noise."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...wan_s2v_model.conditioning.clip import first_history
from ...wan_s2v_model.conditioning.picture import fit_frames, fit_image, size_within_area
from ...wan_s2v_model.conditioning.plan import Plan
from ...wan_s2v_model.constants import SAMPLE_RATE_HZ
from ...wan_s2v_model.sampling.clip_loop import ClipResult, MotionState, first_state, run_clips
from ...wan_s2v_model.sampling.solvers import SOLVERS
from .case import EXACT, Case, Measured, Row, compare_column
from .cases_audio import weights_file
from .cases_forward import load_weights, read_config
from .cases_vae import load_vae, to_video
from .comfyui import comfy_bridge, pack_module

TOLERANCE = 3e-4
VAE_TOLERANCE = 2e-5  # where the encoded pixels are exact
AUDIO_TOLERANCE = 5e-4
PIXEL_TOLERANCE = 1e-6
SIGMA_TOLERANCE = 1e-6
COND, UNCOND = 0, 1  # ComfyUI's numbers for the two model calls of a step
POOL = 8


def replay(case: Case) -> Iterator[Row]:
    bridge = comfy_bridge()
    vae = load_vae(case.path("vae_file"))
    height, width = case.setting("size_hw")
    picture = case.input("in.image_u8").float() / 255
    pose = case.input("in.pose_frames_u8").float() / 255 if "in.pose_frames_u8" in case.tensors else None
    plan = _plan(case, vae, picture, pose)
    yield from _check_settings(case, plan)

    sampler = _sampler(case)
    with Recorder(sampler.model) as recorder:
        video = list(_run(case, plan, vae, sampler, recorder))
    frames = to_video(torch.cat(video))
    measured = {
        **_inputs_of_clips(plan),
        **recorder.measured,
        "ref_pixels": Measured(to_video(fit_image(picture, height, width, cover=False)[None]), PIXEL_TOLERANCE),
        "ref_latents": Measured(plan.ref_latents, VAE_TOLERANCE),
        "sigmas": Measured(sampler.sigmas, SIGMA_TOLERANCE),
        "timesteps": Measured(torch.stack(recorder.truncated_timesteps), EXACT),
        "video": Measured(frames, TOLERANCE),
        "video_pool8": Measured(_pool(frames), TOLERANCE),
    }
    if plan.history is None:  # never encoded by the pack, because a free start drops it
        grey = bridge.encode_pixels(vae, first_history(height, width))
        measured["clip0.motion_latents_in"] = Measured(grey, VAE_TOLERANCE)
    if pose is not None:
        first_pose = fit_frames(pose[:1], height, width, cover=False)
        measured["pose_pixels_frame0"] = Measured(to_video(first_pose)[:, 0], PIXEL_TOLERANCE)
    if "video_sel" in case.tensors:
        measured["video_sel"] = Measured(frames[:, case.input("video_sel_idx")], TOLERANCE)
    yield from case.compare(measured)


def _plan(case: Case, vae, picture: Tensor, pose: Tensor | None) -> Plan:
    """The plan that our nodes make of the inputs, framed as the reference frames it: not cut to the length of the sound."""
    prepare, encode_audio = pack_module("nodes.prepare").WanS2VPrepare, pack_module("nodes.audio").WanS2VAudioEncode
    height, width = case.setting("size_hw")
    encoder = comfy_bridge().AudioEncoder(str(weights_file(case.path("wav2vec_dir"))), "fp32")
    sound = {"waveform": torch.atleast_2d(case.input("in.wave_i16"))[None].float() / 32768, "sample_rate": SAMPLE_RATE_HZ}
    output = prepare.execute(
        encoded_audio=encode_audio.execute(audio_encoder=encoder, audio=sound, start=0.0, duration=0.0).args[0],
        image=picture[None],
        vae=vae,
        size={"size": "custom", "width": width, "height": height},
        frames_per_clip=case.setting("infer_frames"),
        max_clips=case.setting("num_repeat_requested", 0) or 0,
        sync_mode="official",
        first_frame="from picture" if case.setting("init_first_frame", False) else "free",
        pose=None if pose is None else comfy_bridge().ConnectedPose(pose, case.setting("fps", 16), None, 1.0, (0.0, 1.0), "hold"),
    )
    plan = output.args[0]
    timeline = plan.timeline
    if timeline.free_start and not case.setting("drop_first_motion", True):  # the nodes do not offer this
        timeline = replace(timeline, free_start=False)
        plan = replace(plan, history=first_history(height, width))
    return replace(plan, timeline=replace(timeline, num_frames=timeline.num_generated_frames))


def _check_settings(case: Case, plan: Plan) -> Iterator[Row]:
    """Numbers that the metadata holds and the plan derives."""
    settings: dict[str, Any] = {"clips": plan.timeline.num_clips, "total_frames": plan.timeline.num_frames}
    if "max_area" in case.metadata:
        settings["size_hw"] = size_within_area(*case.tensors["in.image_u8"].shape[:2], case.setting("max_area"))
    for name, value in settings.items():
        if name in case.metadata:
            yield compare_column(case.name, f"metadata {name}", {name: (value, case.setting(name))})


def _run(case: Case, plan: Plan, vae, sampler, recorder: "Recorder") -> Iterator[Tensor]:
    """Run the clips and yield their frames."""
    bridge = comfy_bridge()

    def decode(latents: Tensor) -> Tensor:
        decoded = bridge.decode_latents(vae, latents)
        recorder.decoded(latents, decoded)
        return decoded

    stages = {"sample": sampler, "encode": lambda frames: bridge.encode_pixels(vae, frames), "decode": decode}
    state = first_state(plan, stages["encode"])
    for result in run_clips(plan, state, sampler.seed, noise=lambda plan, clip, seed: case.input(f"clip{clip}.noise")[None], **stages):
        recorder.finish(result, state)
        state = result.state
        yield result.frames


class Recorder:
    """Collects what passes between the stages of each clip under the names of the stored tensors."""

    def __init__(self, model):
        self.measured: dict[str, Measured] = {}
        self.truncated_timesteps: list[Tensor] = []  # of clip 0
        self._transformer = model.model.diffusion_model
        self._calls: dict[int, list[tuple[Tensor, Tensor]]] = {COND: [], UNCOND: []}
        self._clip: dict[str, Tensor] = {}
        self._finished = 0

    def __enter__(self) -> "Recorder":
        self._embed_time = self._transformer.embed_time
        self._transformer.embed_time = self._record_timesteps
        self._hook = self._transformer.register_forward_hook(self._called, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        del self._transformer.embed_time  # of the object; the method of the class stays
        self._hook.remove()

    def _record_timesteps(self, timesteps: Tensor, *args):
        self._timestep = timesteps[0]
        return self._embed_time(timesteps, *args)

    def _called(self, module, args, kwargs, velocity: Tensor) -> None:
        parts = kwargs["transformer_options"]["cond_or_uncond"]  # what the rows of the batch are
        for part, x, v in zip(parts, args[0].chunk(len(parts)), velocity.chunk(len(parts)), strict=True):
            self._calls[part].append((x.clone(), v.clone()))
        if COND in parts and not self._finished:
            self.truncated_timesteps.append(self._timestep)

    def decoded(self, latents: Tensor, frames: Tensor) -> None:
        self._clip["decode_in_first_latent"] = latents[0, :, :1]
        self._clip["decoded_all_pool8"] = _pool(to_video(frames))

    def finish(self, result: ClipResult, state: MotionState) -> None:
        steps = [x for x, _ in self._calls[COND]]
        values = {
            **self._clip,
            "latents_out": result.latents[0],
            "step_samples": torch.cat([*steps, result.latents]),
            "v_cond_step0": self._calls[COND][0][1][0],
        }
        if self._calls[UNCOND]:
            values["v_uncond_step0"] = self._calls[UNCOND][0][1][0]
        if state.motion_latents is not None:
            values["motion_latents_in"] = state.motion_latents
        self.measured |= {f"clip{result.clip}.{name}": Measured(value, TOLERANCE) for name, value in values.items()}
        self._calls = {COND: [], UNCOND: []}
        self._finished += 1


def _inputs_of_clips(plan: Plan) -> dict[str, Measured]:
    """Sound and pose of each clip; without a pose video the reference gives zeros."""
    clips = [plan.conditioning(clip, None) for clip in range(plan.timeline.num_clips)]
    measured = {"audio_emb_full": Measured(torch.cat([clip.audio_embedding for clip in clips], dim=-1), AUDIO_TOLERANCE)}
    no_pose = torch.zeros_like(plan.ref_latents).repeat(1, 1, plan.timeline.num_latent_frames, 1, 1)
    for index, clip in enumerate(clips):
        measured[f"clip{index}.audio_input"] = Measured(clip.audio_embedding, AUDIO_TOLERANCE)
        measured[f"clip{index}.pose_latents"] = Measured(no_pose if clip.pose_latents is None else clip.pose_latents, VAE_TOLERANCE)
    return measured


def _sampler(case: Case):
    bridge = comfy_bridge()
    settings = bridge.SamplerSettings(
        steps=case.setting("sampling_steps"),
        cfg=case.setting("guide_scale"),
        shift=case.setting("shift"),
        solver=case.setting("solver"),
        round_state=True,  # of no effect on a float32 model
    )
    if settings.solver not in SOLVERS:
        raise ValueError(f"unknown solver {settings.solver}")
    model_file = case.path("model_file")
    rows = load_weights(model_file)[0].text_len
    positive, negative = (_conditioning(case.input(f"in.context_{sign}"), rows) for sign in ("pos", "neg"))
    return bridge.ClipSampler(load_model(model_file), positive, negative, settings, case.setting("seed", 0))


def _conditioning(context: Tensor, rows: int) -> list:
    """[L, text_dim] -> CONDITIONING, padded with zero rows as by ComfyUI's umT5."""
    return [[F.pad(context, (0, 0, 0, rows - context.shape[0]))[None], {}]]


@cache
def load_model(path: Path):
    """Load through the pack's loader, which reads the configuration from the metadata of the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        save_file(load_file(path), file, metadata={"config": json.dumps({"transformer": read_config(path)})})
        return comfy_bridge().load_diffusion_model(str(file), {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"})


def _pool(video: Tensor) -> Tensor:
    """[3, T, H, W] -> [3, T, H / 8, W / 8], mean."""
    return F.avg_pool2d(video, POOL)

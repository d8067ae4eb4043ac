"""A live video by networks that take no time, whose every block depends on all that decides it."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.sampling.live import LiveSampler, live_sigmas
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import LiveJob
from wan_s2v_pack.wan_s2v_model.sampling.pipeline import LiveTeam, deal_steps
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt, StoppedError

HEIGHT, WIDTH = 32, 48
SEED = 7
CONTEXT = torch.ones(1, 3, 4)
RATE_HZ = 16_000
DECODER_MEMORY = 43  # latents


def make_plan(num_frames: int, pose: bool = False, waveform: torch.Tensor | None = None) -> Plan:
    samples = num_frames * RATE_HZ // 25
    timeline = plan_timeline(samples, RATE_HZ, samples, frames_per_clip=48, fps=25)
    generator = torch.Generator().manual_seed(0)
    size = HEIGHT // 8, WIDTH // 8
    poses = tuple(torch.randn(1, 16, 12, *size, generator=generator) for _ in range(timeline.num_clips)) if pose else None
    return Plan(
        timeline=timeline,
        height=HEIGHT,
        width=WIDTH,
        audio_features=torch.randn(2, 3, timeline.num_audio_frames, generator=generator),
        waveform=torch.randn(1, samples, generator=generator) if waveform is None else waveform,
        sample_rate_hz=RATE_HZ,
        ref_latents=torch.randn(1, 16, 1, *size, generator=generator),
        pose_latents=poses,
        picture=torch.rand(HEIGHT, WIDTH, 3, generator=generator),
    )


class Stored:
    """The first clips of a run, in memory."""

    def __init__(self, results=()):
        self._results, self.num_finished = list(results), len(results)

    def read_latents(self, index):
        return self._results[index].latents[0]

    def read_step_inputs(self, index):
        return self._results[index].step_inputs


class Network:
    """Its velocity depends on the inputs of the last four blocks at the same step, on the anchor and on what it is told."""

    def __init__(self) -> None:
        self.clear()
        self.num_calls = 0

    def clear(self) -> None:
        self.seen: dict[int, dict[int, torch.Tensor]] = {}

    def set_anchor(self, picture_latent, motion_latents, context) -> None:
        self.anchor = picture_latent[0].mean() + motion_latents.mean() + context.mean()

    def forward(self, x, step, timestep, first_latent, distance, audio, pose=None, regions=None):
        self.num_calls += 1
        ring = self.seen.setdefault(step, {})
        before = [ring[first] for first in sorted(ring) if first_latent - 12 < first < first_latent]
        told = self.anchor + distance / 100 + audio.mean() + timestep / 1e4 + (0 if pose is None else pose.mean())
        seen = (x + sum(before)) / (len(before) + 1) + told
        ring[first_latent] = seen.sin()  # what a layer behind makes of it: older blocks reach on
        self.seen[step] = {first: ring[first] for first in sorted(ring)[-4:]}
        return seen.cos()


class Decoder:
    """Frames of a latent depend on as many latents before it as those of the VAE do."""

    def __init__(self) -> None:
        self._seen = torch.zeros(1, 16, 0, HEIGHT // 8, WIDTH // 8)

    def __call__(self, latents):
        is_first = self._seen.shape[2] == 0
        self._seen = torch.cat([self._seen, latents], dim=2)[:, :, -DECODER_MEMORY - latents.shape[2] :]
        frames = [self._frame(self._seen.shape[2] - latents.shape[2] + index) for index in range(latents.shape[2])]
        return torch.cat(frames)[3 * is_first :]

    def _frame(self, index):
        recent = self._seen[0, :, max(0, index - DECODER_MEMORY + 1) : index + 1].mean(dim=0)  # [F, h, w]
        weights = torch.arange(1.0, len(recent) + 1).flip(0).reciprocal()
        picture = (recent * weights[:, None, None]).sum(dim=0).sigmoid()
        return picture.repeat_interleave(8, 0).repeat_interleave(8, 1).expand(4, HEIGHT, WIDTH)[..., None].expand(-1, -1, -1, 3).clone()


def encode(frames):
    values = frames[::4, ::8, ::8].mean(dim=-1)  # [F, h, w]
    return values.expand(1, 16, -1, -1, -1).clone()


def make_sampler(job: LiveJob, network: Network | None = None, on_step=lambda *_: None) -> LiveSampler:
    return LiveSampler(network or Network(), job.told(CONTEXT), live_sigmas(job.steps), on_step)


@contextmanager
def make_pipeline(job: LiveJob, num_gpus: int, network=Network, on_step=lambda *_: None, halt: Halt | None = None):
    """A sampler on so many devices, each with a network of its own; `network` makes one. Their threads end with the context."""
    dealt = deal_steps(job.steps, num_gpus)
    crew = Crew([torch.device("cpu")] * len(dealt), halt or Halt())
    team = LiveTeam(dealt, [network() for steps in dealt if steps], crew)
    try:
        yield team.sampler(job.told(CONTEXT), live_sigmas(job.steps), on_step)
    finally:
        crew.halt.fail(StoppedError())
        crew.close()

"""Clips decoded again are, bit for bit, the floats that the VAE gave while the run was made."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.constants import MOTION_LATENTS
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.finish import finish_run
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
from wan_s2v_pack.wan_s2v_model.sampling.clip_loop import clip_decoder

pytestmark = pytest.mark.comfy

HEIGHT, WIDTH = 32, 48
FRAMES_PER_CLIP = 8
NUM_FRAMES = 19  # the last clip is cut
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def vae(golden_folder):
    try:
        return comfy_bridge().load_vae(str(golden_folder / "tiny_wan21_vae.safetensors"), "fp32")
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


def seeded(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_plan(history):
    num_samples = NUM_FRAMES * RATE_HZ // 16
    timeline = plan_timeline(num_samples, RATE_HZ, num_samples, frames_per_clip=FRAMES_PER_CLIP, free_start=history is None)
    features = torch.zeros(1, 1, timeline.num_audio_frames)
    ref_latents = seeded(1, 16, 1, HEIGHT // 8, WIDTH // 8, seed=1)
    return Plan(timeline, HEIGHT, WIDTH, features, torch.zeros(1, num_samples), RATE_HZ, ref_latents, history=history)


@pytest.mark.parametrize(
    ("with_history", "warmup", "clips_at_once"),
    [(False, MOTION_LATENTS, 9), (True, MOTION_LATENTS, 9), (False, 5, 9), (False, MOTION_LATENTS, 1)],
    ids=["free start", "start from frames", "short warm-up", "resumed after every clip"],
)
def test_exact_frames(with_history, warmup, clips_at_once, vae, tmp_path):
    plan = make_plan(seeded(73, HEIGHT, WIDTH, 3, seed=2) if with_history else None)
    given = {}

    class StopError(BaseException):
        pass

    def run(store):
        run_vae, first = comfy_bridge().RunVae(vae), store.num_finished

        def sample(clip, conditioning, noise):
            if clip == first + clips_at_once:
                raise StopError
            given[clip] = []
            return noise

        def decode(latents):
            given[max(given)] = clip_decoder(run_vae.decode, plan.timeline.num_latent_frames, warmup)(latents)
            return given[max(given)]

        finish_run(store, plan, 1, sample=sample, encode=run_vae.encode, decode=decode)

    with torch.inference_mode():
        finished = False
        while not finished:
            try:
                with RunStore.open(tmp_path / "run", {}) as store:
                    run(store)
                    clips = Clips(store, plan, delete_with_handle=False, vae=vae, vae_warmup=warmup)
                    finished = True
            except StopError:
                continue
        run_vae = comfy_bridge().RunVae(vae)
        frames = torch.cat(list(clips.exact_frames(run_vae.encode, run_vae.decode)))
        kept = torch.cat(list(clips.frames()))
    spoilt = 0 if with_history else 3
    expected = torch.cat([given[clip][-FRAMES_PER_CLIP + (spoilt if clip == 0 else 0) :] for clip in sorted(given)])[:NUM_FRAMES]
    assert torch.equal(frames, expected)
    assert torch.equal((frames * 255).to(torch.uint8), kept)
    assert len(frames) == NUM_FRAMES
    assert clips.get_models() == [vae.patcher]

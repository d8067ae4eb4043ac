"""ComfyUI's cancel button, pressed in the middle of each stage of a clip: the work ends at once, and the run goes on later."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler

pytestmark = pytest.mark.comfy

NUM_CLIPS, FRAMES_PER_CLIP = 3, 8
SIDE = 64  # px
SEED = 42


@pytest.fixture(autouse=True)
def _inference(bridge):
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def plan(bridge):
    num_frames = NUM_CLIPS * FRAMES_PER_CLIP - 3
    plan_timeline = pack_module("wan_s2v_model.conditioning.timeline").plan_timeline
    timeline = plan_timeline(num_frames * 1000, 16_000, num_frames * 1000, frames_per_clip=FRAMES_PER_CLIP)
    generator = torch.Generator().manual_seed(0)
    return pack_module("wan_s2v_model.conditioning.plan").Plan(
        timeline=timeline,
        height=SIDE,
        width=SIDE,
        audio_features=torch.randn(25, 32, timeline.num_audio_frames, generator=generator),
        waveform=torch.zeros(1, num_frames * 1000),
        sample_rate_hz=16_000,
        ref_latents=torch.randn(1, 16, 1, SIDE // 8, SIDE // 8, generator=generator),
    )


@pytest.fixture
def run(bridge, plan, vae):
    """Continues the run in a folder with a model."""
    store_class = pack_module("wan_s2v_model.runs.store").RunStore
    finish_run = pack_module("wan_s2v_model.runs.finish").finish_run

    def finish(folder, model):
        run_vae = bridge.RunVae(vae)
        with store_class.open(folder, {"seed": SEED}) as store:
            sample = clip_sampler(bridge, model, steps=2)
            finish_run(store, plan, SEED, sample=sample, encode=run_vae.encode, decode=run_vae.decode)

    return finish


class Button:
    """Counts pieces of work, and presses cancel at one of them."""

    def __init__(self, press_at=None):
        self.press_at, self.calls, self.late = press_at, 0, 0

    def count(self, size):
        import comfy.model_management

        self.calls += 1
        self.late += 0 if self.press_at is None or self.calls <= self.press_at else size
        if self.calls == self.press_at:
            comfy.model_management.interrupt_current_processing()


def counted(monkeypatch, owner, name, button, axis):
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda tensor, *others: (button.count(tensor.shape[axis]), function(tensor, *others))[1])


def count_blocks(monkeypatch, model, vae, button):
    def block(args, extra):
        button.count(1)
        return extra["original_block"](args)

    model = model.clone()
    for index in range(len(model.model.diffusion_model.blocks)):
        model.set_model_patch_replace(block, "dit", "double_block", index)
    return model


def count_decoded(monkeypatch, model, vae, button):
    counted(monkeypatch, vae, "process_output", button, axis=2)
    return model


def count_encoded(monkeypatch, model, vae, button):
    counted(monkeypatch, vae, "process_input", button, axis=0)
    return model


STAGES = {"sampling": (count_blocks, 0), "decoding": (count_decoded, 8), "encoding the motion": (count_encoded, 0)}  # blocks, frames


def clips(folder):
    return {path.name: path.read_bytes() for path in folder.glob("clip_*")}


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_ends_the_work_at_once_and_the_run_goes_on(stage, run, model, vae, tmp_path, monkeypatch):
    import comfy.model_management

    count, allowed = STAGES[stage]
    calls = Button()
    with monkeypatch.context() as patch:
        run(tmp_path / "whole", count(patch, model, vae, calls))
    button = Button(press_at=calls.calls // 2 + 1)
    with monkeypatch.context() as patch:
        counting = count(patch, model, vae, button)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(tmp_path / "cancelled", counting)
        assert button.late <= allowed
        assert 0 < len(clips(tmp_path / "cancelled")) < NUM_CLIPS
        run(tmp_path / "cancelled", counting)
    assert clips(tmp_path / "cancelled") == clips(tmp_path / "whole")

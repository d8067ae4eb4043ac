"""Prompts and sound of encoders of another size are refused before anything is sampled, in words that say what to load."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

SIDE = 64  # px
RATE_HZ = 16_000
TEXT, LAYERS, CHANNELS = 64, 25, 32  # of the tiny model
TEXT_ADVICE = "it comes from another text encoder. Use Load Wan S2V Text Encoder with umt5_xxl_fp16.safetensors."
AUDIO_ADVICE = "it comes from another audio encoder. Use Load Wan S2V Audio Encoder with wav2vec2_large_english_fp16.safetensors."


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


@pytest.fixture
def temp(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def make_plan(layers, channels):
    timeline = pack_module("wan_s2v_model.conditioning.timeline").plan_timeline(RATE_HZ, RATE_HZ, RATE_HZ, frames_per_clip=16)
    return pack_module("wan_s2v_model.conditioning.plan").Plan(
        timeline=timeline,
        height=SIDE,
        width=SIDE,
        audio_features=torch.zeros(layers, channels, timeline.num_audio_frames),
        waveform=torch.zeros(1, RATE_HZ),
        sample_rate_hz=RATE_HZ,
        ref_latents=torch.zeros(1, 16, 1, SIDE // 8, SIDE // 8),
    )


@pytest.fixture
def run(model, vae, temp):
    """Samples a video of one clip with encoders of these sizes."""

    def sample(positive=TEXT, negative=TEXT, layers=LAYERS, channels=CHANNELS):
        texts = [[[torch.zeros(1, 9, TEXT), {}], [torch.zeros(1, 7, width), {}]] for width in (positive, negative)]
        with torch.inference_mode():
            node = pack_module("nodes.sampling").WanS2VSampler
            return node.execute(model, *texts, vae, make_plan(layers, channels), 42, 1, 4.5, "").args[0]

    return sample


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"positive": 48}, f"The positive prompt has 48 values per token, and this MODEL needs 64: {TEXT_ADVICE}"),
        ({"negative": 4096}, f"The negative prompt has 4096 values per token, and this MODEL needs 64: {TEXT_ADVICE}"),
        ({"channels": 24}, f"The sound of the plan has 25 layers of 24 values, and this MODEL needs 25 of 32: {AUDIO_ADVICE}"),
        ({"layers": 13}, f"The sound of the plan has 13 layers of 32 values, and this MODEL needs 25 of 32: {AUDIO_ADVICE}"),
    ],
)
def test_other_sizes_are_refused_before_the_run_begins(sizes, message, run, temp):
    with pytest.raises(ValueError, match="needs") as caught:
        run(**sizes)
    assert str(caught.value) == message
    assert not list(temp.iterdir())


def test_right_sizes_are_sampled(run):
    assert run().num_frames == 16

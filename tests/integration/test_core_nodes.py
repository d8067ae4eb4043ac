"""Our MODEL, CLIP, VAE and AUDIO_ENCODER with ComfyUI's own nodes, and theirs with ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from .graphs import EXACT, NUM_FRAMES, SIZE, TWO_CLIPS, add, find, inputs_of, patch_model, quick_start

DIM = 256  # of the tiny transformer
LORA = "tiny_lora.safetensors"
SAME_LUMA = 1.0  # mean difference of two encodings of the same frames stays below


@pytest.fixture(scope="session")
def lora_file(base_directory) -> str:
    """A LoRA on every self attention query, in the key format of ComfyUI and of most trainers."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(4):
        key = f"diffusion_model.blocks.{block}.self_attn.q"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, DIM, generator=generator)
        tensors[f"{key}.lora_B.weight"] = torch.randn(DIM, 4, generator=generator)
        tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, base_directory / "models" / "loras" / LORA)
    return LORA


@pytest.fixture
def plain(renderer):
    """Frames without any patch on the model."""
    return renderer.render(quick_start(**EXACT)).luma.astype(float)


def difference(a, b) -> float:
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


def test_lora_loader(renderer, plain, lora_file):
    def with_strength(strength):
        prompt = quick_start(**EXACT)
        patch_model(prompt, "LoraLoaderModelOnly", lora_name=lora_file, strength_model=strength)
        return renderer.render(prompt).luma

    assert difference(with_strength(2.0), plain) > SAME_LUMA
    assert np.array_equal(with_strength(0.0), plain)
    assert "lora key not loaded" not in renderer.server.log_text()


def test_model_sampling_node_sets_the_shift(renderer, plain):
    prompt = quick_start(**EXACT)
    patch_model(prompt, "ModelSamplingSD3", shift=9.0)
    patched = renderer.render(prompt).luma
    assert difference(patched, plain) > 0
    assert np.array_equal(patched, renderer.render(quick_start(shift=9.0, **EXACT)).luma)


def test_easy_cache_skips_steps(renderer):
    prompt = quick_start(steps=8, **TWO_CLIPS)
    patch_model(prompt, "EasyCache", reuse_threshold=3.0, start_percent=0.1, end_percent=0.95, verbose=False)
    before = len(renderer.server.log_text())
    video = renderer.render(prompt)
    assert video.num_frames == 24
    reports = [line for line in renderer.server.log_text()[before:].splitlines() if "EasyCache - skipped" in line]
    assert len(reports) == 2, "one report per clip"
    assert not any("skipped 0/" in line for line in reports)


def test_attention_override_is_asked(renderer, plain):
    prompt = quick_start(**EXACT)
    patch_model(prompt, "StandInAttention", scale=0.0)
    before = len(renderer.server.log_text())
    video = renderer.render(prompt)
    calls = renderer.server.log_text()[before:].count("stand-in attention, call")
    # 2 steps: self and text attention of 4 blocks, audio attention of 3; both conditions in one batch or one after the other
    assert calls in (2 * 11, 2 * 11 * 2)
    assert difference(video.luma, plain) > SAME_LUMA


def test_model_of_the_core_loader_gives_the_same_video(renderer, plain):
    prompt = quick_start(**EXACT)
    prompt[find(prompt, "WanS2VModelLoader")] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "wan_s2v_tiny.safetensors", "weight_dtype": "default"},
    }
    assert difference(renderer.render(prompt).luma, plain) < SAME_LUMA


def test_vae_of_the_core_loader_gives_the_same_video(renderer, plain):
    prompt = quick_start(**EXACT)
    prompt[find(prompt, "WanS2VVAELoader")] = {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae_tiny.safetensors"}}
    assert difference(renderer.render(prompt).luma, plain) < SAME_LUMA


@pytest.mark.parametrize("solver", ["dpm++", "euler", "uni_pc"])
def test_other_solvers(solver, renderer):
    video = renderer.render(quick_start(solver=solver))
    assert video.num_frames == NUM_FRAMES
    assert video.luma.std() > 1


def test_sampler_and_sigmas_of_other_nodes(renderer):
    prompt = quick_start()
    sampler = inputs_of(prompt, "WanS2VSampler")
    sampler["sampler"] = [add(prompt, "KSamplerSelect", sampler_name="euler"), 0]
    sampler["sigmas"] = [add(prompt, "BasicScheduler", model=sampler["model"], scheduler="simple", steps=3, denoise=1.0), 0]
    steps = []
    video = renderer.render(prompt, steps.append)
    assert video.num_frames == NUM_FRAMES
    assert max(step.maximum for step in steps if step.node == find(prompt, "WanS2VSampler")) == 3


def test_all_our_loaders_in_a_graph_of_core_nodes(renderer):
    """ComfyUI's own sound-to-video graph for one clip."""
    prompt = quick_start()
    loader = {name: [find(prompt, f"WanS2V{name}Loader"), 0] for name in ("Model", "TextEncoder", "AudioEncoder", "VAE")}
    image, audio = [find(prompt, "LoadImage"), 0], [find(prompt, "LoadAudio"), 0]
    for unused in ("WanS2VTextEncode", "WanS2VAudioEncode", "WanS2VPrepare", "WanS2VSampler", "WanS2VSaveVideo", "PreviewImage"):
        del prompt[find(prompt, unused)]
    short = add(prompt, "TrimAudioDuration", audio=audio, start_index=0.0, duration=1.5)
    positive, negative = ([add(prompt, "CLIPTextEncode", clip=loader["TextEncoder"], text=text), 0] for text in ("a face", "blurry"))
    heard = [add(prompt, "AudioEncoderEncode", audio_encoder=loader["AudioEncoder"], audio=[short, 0]), 0]
    conditions = {"positive": positive, "negative": negative, "vae": loader["VAE"], "audio_encoder_output": heard, "ref_image": image}
    clip = add(prompt, "WanSoundImageToVideo", width=SIZE, height=SIZE, length=17, batch_size=1, **conditions)
    settings = {"seed": 1, "steps": 2, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    latents = add(prompt, "KSampler", model=loader["Model"], positive=[clip, 0], negative=[clip, 1], latent_image=[clip, 2], **settings)
    frames = add(prompt, "VAEDecode", samples=[latents, 0], vae=loader["VAE"])
    video = add(prompt, "CreateVideo", images=[frames, 0], audio=[short, 0], fps=16.0)
    add(prompt, "SaveVideo", video=[video, 0], filename_prefix="core/clip", format="auto", codec="auto")
    result = renderer.render(prompt)
    assert result.num_frames == 17
    assert result.size == (SIZE, SIZE)


def test_save_video_takes_images_and_audio(renderer):
    prompt = quick_start()
    clips = inputs_of(prompt, "WanS2VSaveVideo").pop("clips")
    decoded = add(prompt, "WanS2VDecode", clips=clips)
    inputs_of(prompt, "WanS2VSaveVideo").update(images=[decoded, 0], audio=[decoded, 1], fps=[decoded, 2], filename_prefix="core/images")
    video = renderer.render(prompt)
    assert video.num_frames == NUM_FRAMES
    assert video.fps == 16
    assert abs(video.sound_seconds - video.picture_seconds) <= 1 / 16


def test_save_video_takes_a_video(renderer):
    prompt = quick_start()
    clips = inputs_of(prompt, "WanS2VSaveVideo").pop("clips")
    decoded = add(prompt, "WanS2VDecode", clips=clips)
    created = add(prompt, "CreateVideo", images=[decoded, 0], audio=[decoded, 1], fps=[decoded, 2])
    inputs_of(prompt, "WanS2VSaveVideo").update(video=[created, 0], filename_prefix="core/video")
    video = renderer.render(prompt)
    assert video.num_frames == NUM_FRAMES
    assert (video.video_codec, video.audio_codec) == ("h264", "aac")

"""Published layouts of the models, picked in our loaders on a real server, give the frames of the plain files.

tests/golden/test_other_loaders.py has all of them, without a server.
"""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.scripts.tiny_models.layouts import INDEX, LAYOUTS

from .graphs import EXACT, add, inputs_of, quick_start

INPUTS = {
    "diffusion_models": "model_name",
    "text_encoders": "text_encoder_name",
    "audio_encoders": "audio_encoder_name",
    "vae": "vae_name",
}
OFFICIAL = ("dit_folder", "umt5_official", "wav2vec2_old_pickle", "vae_official")
REPACKED = ("dit_net", "umt5_shards", "wav2vec2_nested", "vae_model")
PACKED = ("dit_nvfp4", "umt5_nvfp4")
COMFYUI = ("dit_prefix_fp8_scaled", "umt5_fp8_scaled", "wav2vec2_comfyui")


@pytest.fixture(scope="session")
def layouts(base_directory, server) -> None:
    """Written while the server runs, which has to see them without a restart."""
    exact = ("dit_nvfp4_exact", "umt5_nvfp4_exact", "dit_fp8_exact", "umt5_fp8_exact", "wav2vec2_fp16_exact", "dit_q8_0_exact")
    make_tiny_models(base_directory / "models", [*OFFICIAL, *REPACKED, *PACKED, *COMFYUI, "wav2vec2_old", "dit_q8_0", *exact])


@pytest.fixture
def frames(layouts, renderer):
    """The frames that come out when these are picked, each in the loader for its folder."""

    def render(*picks):
        choices = dict(pick.split("/", 1) for pick in picks)
        return renderer.render(quick_start(**{INPUTS[folder]: name for folder, name in choices.items()}, **EXACT)).luma

    return render


def test_official_files(frames):
    assert np.array_equal(frames(*(LAYOUTS[name].pick for name in OFFICIAL)), frames())


def test_repacked_files(frames):
    """Before, each of them was refused: as something else, or for its missing tokenizer."""
    assert np.array_equal(frames(*(LAYOUTS[name].pick for name in REPACKED)), frames())


def test_packed_files(frames):
    """Before: "40 tensors of the wrong shape"."""
    assert np.array_equal(frames(*(LAYOUTS[name].pick for name in PACKED)), frames(*(LAYOUTS[name].same_as for name in PACKED)))


def test_files_in_the_official_folders(frames):
    files = (f"{LAYOUTS['dit_folder'].pick}/{INDEX.format('diffusion_pytorch_model')}", f"{LAYOUTS['wav2vec2_old'].pick}/model.safetensors")
    assert np.array_equal(frames(*files), frames())


def test_comfyui_files(frames):
    picked, exact = frames(*(LAYOUTS[name].pick for name in COMFYUI)), frames(*(LAYOUTS[name].same_as for name in COMFYUI))
    assert np.array_equal(picked, exact)
    assert not np.array_equal(picked, frames())


def test_model_of_a_loader_with_its_own_layers(frames, renderer):
    prompt = quick_start(**EXACT)
    file = LAYOUTS["dit_q8_0"].pick.split("/", 1)[1]
    inputs_of(prompt, "WanS2VSampler")["model"] = [add(prompt, "StandInGGUFLoader", name=file), 0]
    assert np.array_equal(renderer.render(prompt).luma, frames(LAYOUTS["dit_q8_0"].same_as))


def test_folders_are_offered_and_shards_are_not(layouts, client):
    _, combo = client.object_info()["WanS2VModelLoader"]["input"]["required"]["model_name"]
    folder = LAYOUTS["dit_folder"].pick.split("/", 1)[1]
    assert {name for name in combo["options"] if name.startswith(folder)} == {folder, f"{folder}/{INDEX.format('diffusion_pytorch_model')}"}

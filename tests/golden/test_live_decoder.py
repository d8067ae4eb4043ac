"""A video decoded some latents at a time is, bit for bit, one that is decoded at once."""

import itertools

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge, pack_module

pytestmark = pytest.mark.comfy

HEIGHT, WIDTH = 4, 4
PRIMED = 7


@pytest.fixture(scope="module")
def vae(golden_folder):
    try:
        return comfy_bridge().load_vae(str(golden_folder / "tiny_wan21_vae.safetensors"), "fp32")
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def video(blocks, height=HEIGHT, width=WIDTH):
    """Motion latents and blocks of three behind them."""
    return torch.randn(1, 16, PRIMED + 3 * blocks, height, width, generator=torch.Generator().manual_seed(3))


def blocks_of(latents, first=0):
    return latents[:, :, PRIMED:].split(3, dim=2)[first:]


def decoder(vae, height=HEIGHT, width=WIDTH):
    return comfy_bridge().LiveDecoder(vae, height, width)


def test_blocks_are_the_frames_of_one_decode(vae):
    latents = video(6)
    whole = comfy_bridge().decode_latents(vae, latents)
    live = decoder(vae)
    parts = [live(latents[:, :, :PRIMED]), *map(live, blocks_of(latents))]
    assert [len(part) for part in parts] == [4 * PRIMED - 3, *[12] * 6]
    assert torch.equal(torch.cat(parts), whole)


def test_a_video_goes_on_behind_its_newest_latents(vae):
    blocks = 14
    latents = video(blocks)
    whole, live = decoder(vae), decoder(vae)
    frames = [whole(latents[:, :, :PRIMED]), *map(whole, blocks_of(latents))]
    memory = pack_module("wan_s2v_model.comfy_bridge.live").DECODER_MEMORY
    live(latents[:, :, -3 - memory : -3])
    assert torch.equal(live(latents[:, :, -3:]), frames[-1])
    shorter = decoder(vae)
    shorter(latents[:, :, -3 - memory + 10 : -3])
    assert not torch.equal(shorter(latents[:, :, -3:]), frames[-1]), "so many latents are needed"


def test_out_of_memory_it_goes_on_in_tiles(vae, monkeypatch):
    size = 4, 30
    latents = video(1, *size)
    whole = comfy_bridge().decode_latents(vae, latents)
    live, module = decoder(vae, *size), pack_module("wan_s2v_model.comfy_bridge.live")
    decode_fine, calls = module.decode_fine, itertools.count()

    def failing(vae, features, cache):
        if next(calls) == 1:
            raise torch.OutOfMemoryError("no room")
        return decode_fine(vae, features, cache)

    monkeypatch.setattr(module, "decode_fine", failing)
    parts = [live(latents[:, :, :PRIMED]), *map(live, blocks_of(latents))]
    assert len(live._fine) > 1
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_a_decoder_that_was_taken_off_the_gpu_is_loaded_again(vae):
    import comfy.model_management

    latents, live = video(1), decoder(vae)
    live(latents[:, :, :PRIMED])
    comfy.model_management.unload_all_models()
    list(map(live, blocks_of(latents)))
    assert vae.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_a_vae_that_only_decodes_as_a_whole(vae, monkeypatch):
    latents = video(3)
    whole = comfy_bridge().decode_latents(vae, latents)
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.live"), "can_tile", lambda vae: False)
    live = decoder(vae)
    parts = [live(latents[:, :, :PRIMED]), *map(live, blocks_of(latents))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)

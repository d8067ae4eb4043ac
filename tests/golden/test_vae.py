"""Decoding in a stream gives what ComfyUI's call gives at once."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge, pack_module

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def runtime():
    try:
        return pack_module("wan_s2v_model.comfy_bridge.runtime")
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def vae(runtime, golden_folder):
    return comfy_bridge().load_vae(str(golden_folder / "tiny_wan21_vae.safetensors"), "fp32")


@pytest.mark.parametrize(("num_latents", "parts"), [(1, [1]), (2, [1, 4]), (3, [1, 8]), (5, [1, 8, 8]), (6, [1, 8, 8, 4])])
def test_stream_is_exact_and_never_more_than_8_frames(runtime, vae, num_latents, parts):
    latents = torch.randn(1, 16, num_latents, 4, 6, generator=torch.Generator().manual_seed(num_latents))
    with torch.inference_mode():
        stream = list(runtime.stream_frames(vae, latents))
        at_once = vae.decode(runtime.LATENT_FORMAT.process_out(latents))[0]
    assert [len(part) for part in stream] == parts
    assert torch.equal(torch.cat(stream), at_once)


@pytest.mark.parametrize("num_frames", [1, 73, 81])
def test_encoding_is_that_of_comfyuis_call(runtime, vae, num_frames):
    frames = torch.rand(num_frames, 32, 48, 3, generator=torch.Generator().manual_seed(num_frames))
    with torch.inference_mode():
        assert torch.equal(runtime.encode_pixels(vae, frames), runtime.LATENT_FORMAT.process_in(vae.encode(frames)))


def test_out_of_memory_is_not_hidden(runtime, vae, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(vae.first_stage_model, "encode", out_of_memory)
    monkeypatch.setattr(vae.first_stage_model.decoder, "forward", out_of_memory)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        runtime.encode_pixels(vae, torch.rand(5, 32, 48, 3))
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        runtime.decode_latents(vae, torch.randn(1, 16, 3, 4, 6))


def test_cancel_stops_between_two_parts(runtime, vae, monkeypatch):
    class Cancelled(BaseException):
        pass

    def cancel():
        raise Cancelled

    stream = runtime.stream_frames(vae, torch.randn(1, 16, 5, 4, 6))
    with torch.inference_mode():
        assert len(next(stream)) == 1
        monkeypatch.setattr(runtime, "raise_if_interrupted", cancel)
        with pytest.raises(Cancelled):
            next(stream)


def test_another_network_inside_the_vae_decodes_itself(runtime, vae, monkeypatch):
    monkeypatch.setattr(vae, "first_stage_model", torch.nn.Identity())
    monkeypatch.setattr(vae, "decode", lambda latents: latents.new_zeros(1, 9, 8, 8, 3))
    assert runtime.decode_latents(vae, torch.randn(1, 16, 3, 1, 1)).shape == (9, 8, 8, 3)

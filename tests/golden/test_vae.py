"""Our passes through the VAE give what ComfyUI's calls give at once, in tiles too."""

import copy
import logging
import threading
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge, pack_module

pytestmark = pytest.mark.comfy

HEIGHT, WIDTH = 30, 30  # latents; just enough for two rows and two columns of tiles


class CancelledError(BaseException):
    pass


@pytest.fixture(scope="module")
def module():
    try:
        return pack_module("wan_s2v_model.comfy_bridge.vae")
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def vae(module, golden_folder):
    return comfy_bridge().load_vae(str(golden_folder / "tiny_wan21_vae.safetensors"), "fp32")


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def random_latents(num_latents, height=4, width=6):
    return torch.randn(1, 16, num_latents, height, width, generator=torch.Generator().manual_seed(num_latents))


def random_frames(num_frames, height=32, width=48):
    return torch.rand(num_frames, height, width, 3, generator=torch.Generator().manual_seed(num_frames))


@pytest.mark.parametrize("num_latents", [1, 2, 3, 5, 6])
def test_decoding_is_that_of_comfyuis_call(module, vae, num_latents):
    latents = random_latents(num_latents)
    expected = vae.decode(module.LATENT_FORMAT.process_out(latents))[0]
    assert torch.equal(module.decode_latents(vae, latents), expected)


@pytest.mark.parametrize("newest", [1, 6, 8, 13, 80])
def test_only_the_newest_frames_leave_the_gpu(module, vae, newest):
    latents = random_latents(4)
    frames = module.decode_latents(vae, latents, newest=newest)
    assert torch.equal(frames, module.decode_latents(vae, latents)[-newest:])
    assert frames.untyped_storage().nbytes() == frames.nbytes


def test_only_the_newest_frames_of_tiles_leave_the_gpu(module, vae):
    latents = random_latents(2, HEIGHT, WIDTH)
    assert torch.equal(module.decode_latents(vae, latents, (1, 2), 3), module.decode_latents(vae, latents, (1, 2))[-3:])


@pytest.mark.parametrize("num_frames", [1, 5, 7, 13, 73])
def test_encoding_is_that_of_comfyuis_call(module, vae, num_frames):
    frames = random_frames(num_frames)
    assert torch.equal(module.encode_pixels(vae, frames), module.LATENT_FORMAT.process_in(vae.encode(frames)))


@pytest.mark.parametrize("num_latents", [1, 4])
def test_tiles_decode_the_same(module, vae, num_latents):
    latents = random_latents(num_latents, HEIGHT, WIDTH)
    tiled, whole = module.decode_latents(vae, latents, (2, 2)), module.decode_latents(vae, latents, (1, 1))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-6)  # bit-equal where kernels do not depend on the size


@pytest.mark.parametrize("num_frames", [1, 13])
def test_tiles_encode_the_same(module, vae, num_frames):
    frames = random_frames(num_frames, HEIGHT * 8, WIDTH * 8)
    tiled, whole = module.encode_pixels(vae, frames, (2, 2)), module.encode_pixels(vae, frames, (1, 1))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-6)


def test_tiles_that_see_less_would_show(module, vae, monkeypatch):
    tiling = pack_module("wan_s2v_model.cost.vae_tiles")
    latents = random_latents(2, HEIGHT, WIDTH)
    whole = module.decode_latents(vae, latents, (1, 1))
    monkeypatch.setattr(tiling, "OVERLAP", 6)
    assert (module.decode_latents(vae, latents, (1, 2)) - whole).abs().max() > 1e-4


def test_frames_reach_the_device_two_at_a_time(module, vae, monkeypatch):
    sizes, process = [], vae.process_input
    monkeypatch.setattr(vae, "process_input", lambda frames: sizes.append(len(frames)) or process(frames))
    module.encode_pixels(vae, random_frames(9))
    assert sizes == [1, 2, 2, 2, 2]


def plan(module, vae, name="decode"):
    return module.plan_pass(vae, name, HEIGHT, WIDTH, is_picture=False)


@pytest.mark.parametrize(
    ("share", "grid", "level", "text"),
    [
        (1.01, (1, 1), logging.INFO, "VAE decode 240x240: whole picture, needs"),
        (0.99, (1, 2), logging.INFO, "2 tiles, each needs"),
        (0.60, (2, 2), logging.INFO, "4 tiles, each needs"),
        (0.01, (2, 2), logging.WARNING, "This may run out of memory"),
    ],
)
def test_free_memory_decides(module, vae, monkeypatch, caplog, share, grid, level, text):
    weights = vae.patcher.model_size()
    free = weights + share * plan(module, vae).needed_bytes()
    monkeypatch.setattr(module.comfy.model_management, "get_free_memory", lambda *_: free)
    room_for = module.room_for
    monkeypatch.setattr(module, "room_for", lambda vae: (weights, room_for(vae)[1]))
    monkeypatch.setattr(module, "_announced", {})
    with caplog.at_level(logging.INFO, "wan_s2v"):
        assert module.prepare(vae, plan(module, vae), None) == grid
    assert [record.levelno for record in caplog.records if record.name == "wan_s2v"] == [level]
    assert text in caplog.text


def test_choice_is_logged_when_it_changes(module, vae, monkeypatch, caplog):
    monkeypatch.setattr(module, "_announced", {})
    with caplog.at_level(logging.INFO, "wan_s2v"):
        for name, grid in [("decode", (1, 1)), ("encode", (1, 1)), ("decode", (1, 1)), ("decode", (1, 2)), ("decode", (1, 1))]:
            module.prepare(vae, plan(module, vae, name), grid)
    lines = [record.getMessage() for record in caplog.records if record.name == "wan_s2v"]
    starts = ["VAE decode 240x240: whole", "VAE encode 240x240: whole", "VAE decode 240x240: 2 tiles", "VAE decode 240x240: whole"]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4


def test_out_of_memory_is_not_hidden(module, vae, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(vae.first_stage_model.encoder.conv1, "forward", out_of_memory)
    monkeypatch.setattr(vae.first_stage_model.decoder, "run_up", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        module.encode_pixels(vae, random_frames(5))
    with pytest.raises(torch.OutOfMemoryError):
        module.decode_latents(vae, random_latents(3))


@pytest.mark.parametrize("grid", [(1, 1), (1, 2)])
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_cancel_stops_between_two_parts(module, vae, monkeypatch, name, grid):
    convolution = getattr(vae.first_stage_model, f"{name}r").conv1
    checks, convolved, convolve = [], [], convolution.forward

    def cancel_at_fourth_check():
        checks.append(None)
        if len(checks) == 4:
            raise CancelledError

    def run():
        if name == "encode":
            module.encode_pixels(vae, random_frames(9, HEIGHT * 8, WIDTH * 8), grid)
        else:
            module.decode_latents(vae, random_latents(5, HEIGHT, WIDTH), grid)

    monkeypatch.setattr(module, "raise_if_interrupted", cancel_at_fourth_check)
    monkeypatch.setattr(convolution, "forward", lambda *args, **options: convolved.append(None) or convolve(*args, **options))
    with pytest.raises(CancelledError):
        run()
    assert 0 < len(convolved) < 3


def test_another_network_inside_the_vae_runs_itself(module, vae, monkeypatch):
    monkeypatch.setattr(vae, "first_stage_model", torch.nn.Identity())
    monkeypatch.setattr(vae, "decode", lambda latents: latents.new_zeros(1, 9, 8, 8, 3))
    monkeypatch.setattr(vae, "encode", lambda frames: frames.new_zeros(1, 16, 3, 1, 1))
    assert module.decode_latents(vae, random_latents(3, 1, 1)).shape == (9, 8, 8, 3)
    assert module.encode_pixels(vae, random_frames(9, 8, 8)).shape == (1, 16, 3, 1, 1)


# Several GPUs; the CPU stands for them


@pytest.mark.parametrize("helpers", [2])
def test_tiles_shared_out_are_the_tiles_of_one(module, vae, helpers):
    latents, frames = random_latents(3, HEIGHT, WIDTH), random_frames(9, HEIGHT * 8, WIDTH * 8)
    others = [vae] * helpers
    assert torch.equal(module.decode_latents(vae, latents, (2, 2), helpers=others), module.decode_latents(vae, latents, (2, 2)))
    assert torch.equal(module.encode_pixels(vae, frames, (2, 2), others), module.encode_pixels(vae, frames, (2, 2)))


def test_cancel_of_tiles_that_are_shared_out_leaves_no_thread(module, vae, monkeypatch):
    calls, before = [], threading.active_count()

    def cancel():
        calls.append(True)
        if len(calls) == 5:
            raise CancelledError

    monkeypatch.setattr(module, "raise_if_interrupted", cancel)
    with pytest.raises(CancelledError):
        module.decode_latents(vae, random_latents(5, HEIGHT, WIDTH), (1, 2), helpers=[vae])
    assert threading.active_count() == before
    assert len(calls) <= 7


def test_vae_of_a_run_works_on_all_gpus_of_its_model(module, vae):
    class Model:
        load_device = vae.device

        def get_additional_models_with_key(self, key):
            return [SimpleNamespace(load_device=torch.device("cpu", 1))]

    latents = random_latents(3, HEIGHT, WIDTH)
    run_vae = module.RunVae(vae, Model())
    _, helper = run_vae._vaes
    assert helper.first_stage_model is helper.patcher.model is not vae.first_stage_model
    torch.testing.assert_close(run_vae.decode(latents), module.decode_latents(vae, latents), rtol=0, atol=2e-6)
    assert run_vae._tried["decode"] == (1, 2)


def test_each_gpu_loads_the_vae_once_for_a_pass(module, vae, monkeypatch):
    """ComfyUI goes through all weights of a model that it is to load."""
    loaded, load = [], module.comfy.model_management.load_models_gpu
    monkeypatch.setattr(module.comfy.model_management, "load_models_gpu", lambda models, **kw: loaded.append(models) or load(models, **kw))
    run_vae = module.RunVae(vae)
    run_vae._vaes = [vae, copy.copy(vae)]
    run_vae.decode(random_latents(1, 8, 8))
    assert len(loaded) == 2


def test_a_slow_gpu_takes_no_tile(module, vae, monkeypatch):
    monkeypatch.setattr(module, "rates_of", lambda devices, dtype: [1.0, 0.1])
    used, fill = [], module.decode_fine
    monkeypatch.setattr(module, "decode_fine", lambda vae, *rest: used.append(vae) or fill(vae, *rest))
    run_vae = module.RunVae(vae)
    run_vae._vaes = [vae, copy.copy(vae)]
    run_vae.decode(random_latents(1, HEIGHT, WIDTH))
    assert used == [vae]

"""Out of GPU memory, simulated: the same work is done again in less memory, with the same result, and only the last failure raises."""

import math

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, sample_clip

pytestmark = pytest.mark.comfy

HEIGHT, WIDTH = 30, 30  # latents; just enough for two rows and two columns of tiles
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
LOGGED = "the GPU ran out of memory in"


@pytest.fixture(autouse=True)
def _inference(bridge):
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def memory_module(bridge):
    return pack_module("wan_s2v_model.comfy_bridge.memory")


@pytest.fixture(scope="module")
def vae_module(bridge):
    return pack_module("wan_s2v_model.comfy_bridge.vae")


@pytest.fixture(scope="module")
def expected(bridge, model):
    with torch.inference_mode():
        return sample_clip(clip_sampler(bridge, model))


class FailingBlock:
    """Runs out of memory in the first calls of a block; keeps the options of the calls."""

    def __init__(self, model, failures, error=OUT_OF_MEMORY):
        self.failures, self.error, self.options = failures, error, []
        self.model = model.clone()
        self.model.set_model_patch_replace(self, "dit", "double_block", 1)

    def __call__(self, args, extra):
        self.options.append(args["transformer_options"])
        if self.failures > 0:
            self.failures -= 1
            raise self.error
        return extra["original_block"](args)


def warnings(caplog):
    return [record.message for record in caplog.records if record.message.startswith(LOGGED)]


@pytest.mark.parametrize("failures", [1, 2])
def test_sampling_goes_on_with_the_same_result(bridge, model, expected, caplog, failures):
    block = FailingBlock(model, failures)
    latents = sample_clip(clip_sampler(bridge, block.model))
    assert torch.equal(latents, expected)
    lines = warnings(caplog)
    assert len(lines) == failures
    assert lines[0] == f"{LOGGED} sampling (CUDA out of memory. Tried to allocate 2.00 GiB.); once more, with everything else off the GPU"
    key = pack_module("wan_s2v_model.kernels.row_chunks").CHUNK_ROWS_KEY
    assert [key in block.options[0], key in block.options[-1]] == [False, failures == 2]


def test_sampling_raises_when_nothing_saves_more_memory_and_says_what_helps(bridge, model, caplog):
    sampler = clip_sampler(bridge, FailingBlock(model, math.inf).model)
    with pytest.raises(torch.OutOfMemoryError, match=r"in sampling, and there is no way left.*finished clips are kept.*smaller size"):
        sample_clip(sampler)
    assert len(warnings(caplog)) == 2


def test_saving_stays_for_the_clips_that_follow(bridge, model, caplog):
    block = FailingBlock(model, 2)
    sampler = clip_sampler(bridge, block.model)
    sample_clip(sampler)
    block.options.clear()
    sample_clip(sampler, clip=1)
    assert pack_module("wan_s2v_model.kernels.row_chunks").CHUNK_ROWS_KEY in block.options[0]
    assert len(warnings(caplog)) == 2


def test_other_errors_are_not_taken_for_lack_of_memory(bridge, model, caplog):
    with pytest.raises(RuntimeError, match="illegal memory access"):
        sample_clip(clip_sampler(bridge, FailingBlock(model, 1, RuntimeError("CUDA error: an illegal memory access")).model))
    assert warnings(caplog) == []


def test_failed_work_is_forgotten_before_the_next_try(memory_module):
    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    seen = []

    def work():
        seen.append(Held.alive)
        held = Held()
        if len(seen) == 1:
            raise torch.OutOfMemoryError(f"out of memory with {held}")
        return "done"

    assert memory_module.RetryInLessMemory("a test", iter(["once more"]), "").run(work) == "done"
    assert seen == [0, 0]


TENSORS = {
    "encode": lambda: torch.rand(5, 8 * HEIGHT, 8 * WIDTH, 3, generator=torch.Generator().manual_seed(0)),
    "decode": lambda: torch.randn(1, 16, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)),
}
FUNCTIONS = {"encode": "encode_pixels", "decode": "decode_latents"}
PASSES = {"encode": "_encode", "decode": "_decode"}  # by VAEs that are loaded


def failing(monkeypatch, vae_module, name, failures):
    """Let our pass through the VAE run out of memory; returns the grids with which it was tried."""
    tried, function = [], getattr(vae_module, PASSES[name])

    def run(vaes, tensor, grid, *more):
        tried.append(grid)
        if len(tried) <= failures:
            raise OUT_OF_MEMORY
        return function(vaes, tensor, grid, *more)

    monkeypatch.setattr(vae_module, PASSES[name], run)
    return tried


@pytest.mark.parametrize("name", TENSORS)
def test_vae_goes_over_to_tiles_with_the_same_result(bridge, vae_module, vae, monkeypatch, caplog, name):
    tensor = TENSORS[name]()
    expected = getattr(bridge, FUNCTIONS[name])(vae, tensor)
    tried = failing(monkeypatch, vae_module, name, 2)
    run_vae = bridge.RunVae(vae)
    result = getattr(run_vae, name)(tensor)
    assert torch.allclose(result, expected, atol=1e-5)
    assert tried[:2] == [(1, 1), (1, 1)]
    assert tried[2] != (1, 1)
    assert [line.partition("once more, ")[2] for line in warnings(caplog)] == [
        "with everything else off the GPU",
        f"in {tried[2][0]} x {tried[2][1]} tiles",
    ]
    getattr(run_vae, name)(tensor)
    assert tried[3:] == tried[2:3], "the clips that follow begin with the tiles that fit"


@pytest.mark.parametrize("name", TENSORS)
def test_vae_raises_behind_the_smallest_tiles(bridge, vae_module, vae, monkeypatch, name):
    tried = failing(monkeypatch, vae_module, name, math.inf)
    with pytest.raises(torch.OutOfMemoryError, match=f"in VAE {name}, and there is no way left.*bf16"):
        getattr(bridge.RunVae(vae), name)(TENSORS[name]())
    choices = pack_module("wan_s2v_model.cost.vae_tiles").grids(HEIGHT, WIDTH)
    assert tried == [(1, 1), *choices]


def test_vae_that_has_no_room_for_its_weights(bridge, vae_module, vae, monkeypatch, caplog):
    monkeypatch.setattr(vae_module, "fitting_grid", iter_errors(vae_module.fitting_grid))
    assert bridge.RunVae(vae).decode(torch.zeros(1, 16, 1, 4, 4)).shape == (1, 32, 32, 3)
    assert len(warnings(caplog)) == 1


def iter_errors(function):
    errors = [OUT_OF_MEMORY]

    def run(*arguments):
        if errors:
            raise errors.pop()
        return function(*arguments)

    return run

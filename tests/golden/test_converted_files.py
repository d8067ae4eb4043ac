"""Files that `convert` writes, in our loader and in ComfyUI's own: near the output of the file that they were made from."""

import pytest
import torch
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_other_loaders import EXACT, sample, with_lora

pytestmark = pytest.mark.comfy

ALLOWED = {"fp8_scaled": 0.05, "mxfp8": 0.06, "nvfp4": 0.3, "int8": 0.03, "int8_rotated": 0.03}  # of a clip of two steps


@pytest.fixture(scope="module")
def converted(bridge, models, tmp_path_factory):
    """The tiny transformer in every format."""
    folder, convert = tmp_path_factory.mktemp("converted"), pack_module("cli.convert").convert
    return {name: str(convert(models / DIFFUSION_MODEL, name, folder / f"{name}.safetensors")) for name in ALLOWED}


@pytest.fixture(scope="module")
def exact(bridge, models):
    return sample(bridge, bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), EXACT))


def relative_error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", ALLOWED)
def test_in_our_loader(bridge, converted, exact, name):
    assert 1e-4 < relative_error(sample(bridge, bridge.load_diffusion_model(converted[name], EXACT)), exact) < ALLOWED[name]


@pytest.mark.parametrize("name", ALLOWED)
def test_in_comfyuis_loader(bridge, converted, exact, name):
    import comfy.sd

    model = comfy.sd.load_diffusion_model(converted[name], {"dtype": torch.float32})
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    assert layer.quant_format == pack_module("cli.convert.formats").FORMATS[name].mark["format"]
    assert 1e-4 < relative_error(sample(bridge, model), exact) < ALLOWED[name]


def test_int8_rounds_inputs_and_fp8_scaled_does_not(bridge, converted):
    """int8 saves time only so; fp8_scaled is exact but for its weights. The others need a GPU that computes with them."""
    x = torch.randn(1, 3, 256, generator=torch.Generator().manual_seed(0))
    for name, is_exact in (("fp8_scaled", True), ("int8", False), ("int8_rotated", False)):
        layer = bridge.load_diffusion_model(converted[name], EXACT).model.diffusion_model.blocks[0].self_attn.q
        plain = torch.nn.functional.linear(x, layer.weight.dequantize().float(), layer.bias.float())
        assert (relative_error(layer(x), plain) < 1e-3) == is_exact


@pytest.mark.parametrize("name", ["int8", "int8_rotated"])
def test_lora_on_int8(bridge, converted, models, name):
    plain = bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), EXACT)
    models = bridge.load_diffusion_model(converted[name], EXACT), plain
    changed, expected = (sample(bridge, with_lora(model, 0.8)) for model in models)
    assert (changed - expected).norm() < 0.2 * (sample(bridge, plain) - expected).norm()


@pytest.fixture
def without_int8(bridge, monkeypatch):
    """A device on which integers are not multiplied."""
    loaders, quant_ops = pack_module("wan_s2v_model.comfy_bridge.loaders"), pytest.importorskip("comfy.quant_ops")

    def fail(*_, **__):
        raise NotImplementedError("_int_mm is not implemented for this device\nand more")

    loaders.int8_works.cache_clear()
    monkeypatch.setattr(quant_ops.QuantizedTensor, "from_float", fail)
    yield
    loaders.int8_works.cache_clear()


def test_where_int8_does_not_run_such_a_file_is_refused_and_others_load(bridge, converted, without_int8, caplog):
    """ComfyUI multiplies integers whatever the mark of the layer says, so it would fail while it samples, or worse."""
    error = pack_module("wan_s2v_model.checkpoints.file_format").CheckpointError
    with pytest.raises(error, match=r"int8_rotated\.safetensors is stored in int8, whose products do not run on this device"):
        bridge.load_diffusion_model(converted["int8_rotated"], EXACT)
    assert "int8: its products do not run here (_int_mm is not implemented for this device)" in caplog.text
    bridge.load_diffusion_model(converted["fp8_scaled"], EXACT)


def test_int8_runs_here(bridge):
    assert pack_module("wan_s2v_model.comfy_bridge.loaders").int8_works(torch.device("cpu"))

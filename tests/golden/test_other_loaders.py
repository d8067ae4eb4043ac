"""Every layout of a model file, and MODELs of other loaders: the output is, bit for bit, that of the plain file with the same weights."""

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, LAYOUTS, metadata_of
from wan_s2v_pack.tests.golden.comfyui import comfyui_path, pack_module

pytestmark = pytest.mark.comfy

EXACT = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}
WEIGHTS = {".safetensors", ".pth", ".bin"}
STAND_IN_LOADER = "dit_q8_0"  # not for our loader
PICKED = [name for name in LAYOUTS if not name.endswith("_exact") and name != STAND_IN_LOADER]
LORA_LAYERS = ("blocks.0.self_attn.q", "blocks.1.ffn.2", "audio_injector.injector.0.k", "time_projection.1", "head.head")


@pytest.fixture(scope="module")
def models(bridge, tmp_path_factory) -> Path:
    """A models folder with every layout."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_PATH", str(comfyui_path()))
        make_tiny_models(folder, list(LAYOUTS))
    return folder


@pytest.fixture(scope="module")
def output(bridge, models):
    """What comes out when a model is picked in the loader for its folder."""
    measure = {
        "diffusion_models": lambda path: sample(bridge, bridge.load_diffusion_model(path, EXACT)),
        "text_encoders": lambda path: encode(bridge.load_text_encoder(path)),
        "audio_encoders": lambda path: bridge.AudioEncoder(path, "fp32").hidden_states(randn(1, 3200)[0]),
        "vae": lambda path: decode(bridge.load_vae(path, "fp32")),
    }
    return functools.cache(lambda pick: measure[pick.split("/")[0]](picked(models, pick)))


@pytest.fixture(scope="module")
def load_packed(bridge):
    from wan_s2v_pack.tests.integration.stand_ins.gguf import load_packed

    return load_packed


def picked(models, pick) -> str:
    """The path behind a choice of a loader."""
    shards = pack_module("wan_s2v_model.checkpoints.shards")
    folder, _, name = pick.partition("/")
    files = [str(path.relative_to(models / folder)) for path in (models / folder).rglob("*") if path.suffix in WEIGHTS]
    return str(models / folder / shards.with_folders(shards.collapse_shards(files))[name])


def randn(seed, *shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def sample(bridge, model):
    conditioning = pack_module("wan_s2v_model.conditioning.clip").ClipConditioning(
        audio_embedding=randn(1, 25, 32, 16), ref_latents=randn(2, 16, 1, 8, 8), motion_latents=randn(3, 16, 19, 8, 8)
    )
    text = [[randn(4, 9, 64), {}]]
    settings = bridge.SamplerSettings(steps=2, cfg=4.5, shift=3.0, solver="unipc")
    return bridge.ClipSampler(model, text, text, settings, seed=42)(0, conditioning, randn(5, 16, 4, 8, 8))


def encode(clip):
    return pack_module("wan_s2v_model.conditioning.prompts").encode_prompt(clip, "A fox tells a story by the fire, 4k.")[0][0]


def decode(vae):
    return torch.cat([vae.decode(randn(1, 16, 2, 4, 4)).flatten(), vae.encode(randn(2, 32, 32, 3)[0][None].sigmoid()).flatten()])


def with_lora(model, strength):
    import comfy.sd

    weights = dict(model.model.named_modules())
    lora = {}
    for layer in LORA_LAYERS:
        linear = weights[f"diffusion_model.{layer}"]
        lora[f"diffusion_model.{layer}.lora_A.weight"] = 0.1 * randn(len(layer), 4, linear.in_features)[0]
        lora[f"diffusion_model.{layer}.lora_B.weight"] = 0.1 * randn(len(layer) + 1, linear.out_features, 4)[0]
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0)
    assert len(patched.patches) == len(LORA_LAYERS)
    return patched


# Layouts


@pytest.mark.parametrize("name", PICKED)
def test_every_layout_gives_the_output_of_its_weights(output, name):
    layout = LAYOUTS[name]
    result = output(layout.pick)
    assert torch.isfinite(result).all()
    assert torch.equal(result, output(layout.same_as))
    assert torch.equal(result, output(layout.plain)) == (layout.same_as == layout.plain)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dit_folder", "diffusion_pytorch_model.safetensors.index.json"),
        ("wav2vec2_old", "model.safetensors"),
        ("wav2vec2_old_pickle", "pytorch_model.bin"),
    ],
)
def test_folder_and_the_file_in_it_are_the_same(models, name, file):
    pick = LAYOUTS[name].pick
    assert picked(models, pick) == picked(models, f"{pick}/{file}") == str(models / pick / file)


@pytest.mark.parametrize("name", ["umt5_official", "vae_official", "wav2vec2_old_pickle"])
def test_pickles_are_pickles(models, name):
    contents = torch.load(picked(models, LAYOUTS[name].pick), weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in contents.values())


@pytest.mark.parametrize("name", ["dit_fp8_layers", "umt5_fp8_scaled"])
def test_scales_without_marks_are_used(bridge, models, output, tmp_path, name):
    """A program that rewrote the file has dropped the marks, which ComfyUI needs to use the scales."""
    layout = LAYOUTS[name]
    path = tmp_path / layout.pick.split("/")[0] / "rewritten.safetensors"
    path.parent.mkdir()
    tensors = load_file(picked(models, layout.pick))
    kept = {key: tensor for key, tensor in tensors.items() if key != "scaled_fp8" and not key.endswith(".comfy_quant")}
    save_file(kept, path, metadata_of(models / layout.plain))
    load = {"dit_fp8_layers": lambda: sample(bridge, bridge.load_diffusion_model(str(path), EXACT))}
    result = load.get(name, lambda: encode(bridge.load_text_encoder(str(path))))()
    assert torch.equal(result, output(layout.same_as))


def test_int8_without_marks_is_refused(bridge, models, tmp_path):
    tensors = load_file(picked(models, LAYOUTS["dit_fp16"].pick))
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].to(torch.int8)
    tensors["blocks.0.ffn.0.weight_scale"] = torch.ones(512, 1)
    save_file(tensors, tmp_path / "rewritten.safetensors")
    message = r"rewritten\.safetensors does not say how its quantised weights are stored: 1 tensors without a mark"
    with pytest.raises(pack_module("wan_s2v_model.checkpoints.s2v").CheckpointError, match=message):
        bridge.load_diffusion_model(str(tmp_path / "rewritten.safetensors"), EXACT)


# Pickles with code


class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("loader", ["load_diffusion_model", "load_text_encoder", "load_vae", "AudioEncoder"])
@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(bridge, tmp_path, loader, new_format):
    path, mark = tmp_path / "model.pth", tmp_path / "code was run"
    torch.save({"weight": Malicious(mark)}, path, _use_new_zipfile_serialization=new_format)
    options = {"load_diffusion_model": [EXACT], "load_vae": ["fp32"], "AudioEncoder": ["fp32"]}.get(loader, [])
    with pytest.raises(
        pack_module("wan_s2v_model.checkpoints.s2v").CheckpointError, match=r"model\.pth is damaged or holds no weights \(.+\)"
    ):
        getattr(bridge, loader)(str(path), *options)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


# MODELs of other loaders


def test_comfyuis_own_loader_gives_the_same_clip(bridge, models, output):
    import comfy.sd

    native = comfy.sd.load_diffusion_model(str(models / DIFFUSION_MODEL), {"dtype": torch.float32})
    assert torch.equal(sample(bridge, native), output(DIFFUSION_MODEL))
    assert not native.object_patches  # the MODEL that came in is as it was


@pytest.mark.parametrize("name", ["dit_fp8_scaled", "dit_fp8_header", "dit_prefix_fp8_layers"])
def test_comfyuis_own_loader_of_fp8_files_gives_the_same_clip(bridge, models, output, name):
    import comfy.sd

    native = comfy.sd.load_diffusion_model(picked(models, LAYOUTS[name].pick))
    assert torch.equal(sample(bridge, native), output(LAYOUTS[name].same_as))


def test_layers_that_unpack_their_own_weights_give_the_same_clip(bridge, models, output, load_packed):
    layout = LAYOUTS[STAND_IN_LOADER]
    packed = load_packed(picked(models, layout.pick))
    stored = packed.model.diffusion_model.head.head.weight
    assert stored.dtype == torch.uint8
    assert stored.size() != stored.shape  # bytes, which is what the test is about
    read = pack_module("wan_s2v_model.comfy_bridge.model").s2v_config
    plain = bridge.load_diffusion_model(picked(models, layout.same_as), EXACT)
    assert read(packed.model.diffusion_model) == read(plain.model.diffusion_model)
    assert torch.equal(sample(bridge, packed), output(layout.same_as))


def test_lora_on_layers_that_unpack_their_own_weights(bridge, models, output, load_packed):
    layout = LAYOUTS[STAND_IN_LOADER]
    packed = load_packed(picked(models, layout.pick))
    plain = bridge.load_diffusion_model(picked(models, layout.same_as), EXACT)
    strong, weak = (sample(bridge, with_lora(packed, strength)) for strength in (0.8, 0.3))
    assert torch.equal(strong, sample(bridge, with_lora(plain, 0.8)))
    assert torch.equal(weak, sample(bridge, with_lora(plain, 0.3)))
    assert torch.equal(sample(bridge, packed), output(layout.same_as))
    assert not torch.equal(strong, weak)


def test_another_model_is_refused(bridge, models):
    stranger = bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), EXACT).clone()
    stranger.model = torch.nn.Module()
    stranger.model.diffusion_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"connected MODEL is not a Wan2\.2-S2V transformer"):
        bridge.with_s2v_forward(stranger)

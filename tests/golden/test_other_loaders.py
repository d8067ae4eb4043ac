"""Other files and other loaders: the clip is the one that our loader makes of the plain file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge, pack_module

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def bridge():
    try:
        return comfy_bridge()
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint(golden_folder, tmp_path_factory):
    """The tiny model as a single file with the metadata that ComfyUI's loader reads."""
    config = json.loads((golden_folder / "tiny_s2v.config.json").read_text())
    metadata = {"config": json.dumps({"transformer": {key: config[key] for key in ("text_dim", "audio_dim", "audio_inject_layers")}})}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(load_file(golden_folder / "tiny_s2v.safetensors"), path, metadata=metadata)
    return str(path)


def sample(bridge, model):
    conditioning = pack_module("wan_s2v_model.conditioning").ClipConditioning(
        audio_embedding=torch.randn(1, 25, 32, 16, generator=torch.Generator().manual_seed(1)),
        ref_latents=torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
        motion_latents=torch.randn(1, 16, 19, 8, 8, generator=torch.Generator().manual_seed(3)),
    )
    text = [[torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(4)), {}]]
    noise = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    settings = bridge.SamplerSettings(steps=2, cfg=4.5, shift=3.0, solver="unipc")
    return bridge.ClipSampler(model, text, text, settings, seed=42)(0, conditioning, noise)


def test_comfyuis_own_loader_gives_the_same_clip(bridge, checkpoint):
    import comfy.sd

    ours = bridge.load_diffusion_model(checkpoint, {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"})
    native = comfy.sd.load_diffusion_model(checkpoint, {"dtype": torch.float32})
    clip = sample(bridge, ours)
    assert torch.isfinite(clip).all()
    assert torch.equal(sample(bridge, native), clip)
    assert not native.object_patches  # the MODEL that came in is as it was


def test_fp8_scaled_file_gives_what_its_dequantised_weights_give(bridge, checkpoint, tmp_path):
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    scaled, plain = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}, {}
    for name, tensor in load_file(checkpoint).items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            scaled[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            scaled[name.replace(".weight", ".scale_weight")] = scale
            plain[name] = scaled[name].float() * scale
        else:
            scaled[name] = plain[name] = tensor
    clips = []
    for name, tensors in (("scaled", scaled), ("plain", plain)):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
        options = {"weight_dtype": "default", "precision": "official", "attention": "comfyui"}
        clips.append(sample(bridge, bridge.load_diffusion_model(str(tmp_path / f"{name}.safetensors"), options)))
    assert torch.equal(*clips)


def test_official_folder_of_shards_gives_the_same_clip(bridge, checkpoint, golden_folder, tmp_path):
    tensors = load_file(checkpoint)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}))
    (tmp_path / "config.json").write_text((golden_folder / "tiny_s2v.config.json").read_text())
    options = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}
    clips = [sample(bridge, bridge.load_diffusion_model(path, options)) for path in (str(index), checkpoint)]
    assert torch.equal(*clips)


def test_another_model_is_refused(bridge, checkpoint):
    ours = bridge.load_diffusion_model(checkpoint, {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"})
    stranger = ours.clone()
    stranger.model = torch.nn.Module()
    stranger.model.diffusion_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"connected MODEL is not a Wan2\.2-S2V transformer"):
        bridge.with_s2v_forward(stranger)

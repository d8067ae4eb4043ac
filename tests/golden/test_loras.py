"""A LoRA changes a clip exactly as the same change in the weights does, and leaves nothing behind."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models import loras as tiny_loras
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import OPTIONS, load_native, load_ours, save_checkpoint
from wan_s2v_pack.tests.unit.checkpoints.test_lora_adapters import APPLICABLE

pytestmark = pytest.mark.comfy

RAW = ("blocks.0.modulation", "head.modulation", "casual_audio_encoder.weights", "casual_audio_encoder.encoder.padding_tokens")


@pytest.fixture(scope="module")
def original(bridge, checkpoint):
    return sample(bridge, load_ours(bridge, checkpoint))


@pytest.fixture
def lora(checkpoint, tmp_path, request):
    """Path and changes of a tiny LoRA in the dialect of the test's parameter; a test without one gets everything a LoRA can change."""
    dialect = getattr(request, "param", "lightx2v")
    path = tmp_path / f"{dialect}.safetensors"
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint).items()}
    return str(path), tiny_loras.write_lora(dialect, shapes, path)


@pytest.fixture
def merged_clip(bridge, checkpoint, golden_folder, lora, tmp_path):
    """The clip of a checkpoint with the LoRA in its weights."""

    def clip(strength):
        tensors = tiny_loras.merge(load_file(checkpoint), lora[1], strength)
        return sample(bridge, load_ours(bridge, save_checkpoint(tensors, golden_folder, tmp_path / f"merged_{strength}.safetensors")))

    return clip


def with_stock_lora(model, path, strength):
    """As LoraLoaderModelOnly does it."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, load_file(path), strength, 0)[0]


def sample(bridge, model):
    conditioning = pack_module("wan_s2v_model.conditioning.clip").ClipConditioning(
        audio_embedding=torch.randn(1, 25, 32, 8, generator=torch.Generator().manual_seed(1)),
        ref_latents=torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
        motion_latents=torch.randn(1, 16, 19, 8, 8, generator=torch.Generator().manual_seed(3)),
    )
    text = [[torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(4)), {}]]
    noise = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    settings = bridge.SamplerSettings(steps=1, cfg=1.0, shift=3.0, solver="unipc")
    return bridge.ClipSampler(model, text, text, settings, seed=42)(0, conditioning, noise)


@pytest.mark.parametrize("lora", tiny_loras.DIALECTS, indirect=True)
def test_lora_is_the_merged_checkpoint_and_leaves_no_trace(bridge, checkpoint, original, lora, merged_clip):
    model = load_ours(bridge, checkpoint)
    clips = {strength: sample(bridge, bridge.apply_lora(model, lora[0], strength)[0]) for strength in (0.8, 0.3)}
    assert torch.isfinite(clips[0.8]).all()
    assert not torch.equal(clips[0.8], original)
    assert torch.equal(clips[0.8], merged_clip(0.8))
    assert torch.equal(clips[0.3], merged_clip(0.3))
    assert torch.equal(sample(bridge, model), original)
    assert torch.equal(sample(bridge, bridge.apply_lora(model, lora[0], 0.0)[0]), original)


@pytest.mark.parametrize("apply", ["ours", "stock"])
def test_on_comfyuis_own_model_too(bridge, checkpoint, original, lora, merged_clip, apply):
    model = load_native(bridge, checkpoint)
    for strength in (0.8, 0.3):
        with_lora = bridge.apply_lora(model, lora[0], strength)[0] if apply == "ours" else with_stock_lora(model, lora[0], strength)
        assert torch.equal(sample(bridge, with_lora), merged_clip(strength))
    assert torch.equal(sample(bridge, model), original)


def test_comfyuis_loader_does_the_same_to_our_model(bridge, checkpoint, original, lora, merged_clip):
    model = load_ours(bridge, checkpoint)
    assert torch.equal(sample(bridge, with_stock_lora(model, lora[0], 0.8)), merged_clip(0.8))
    assert torch.equal(sample(bridge, model), original)


def test_loras_add_up_whichever_loader_comes_first(bridge, checkpoint, lora, golden_folder, tmp_path):
    model = load_ours(bridge, checkpoint)
    both = with_stock_lora(bridge.apply_lora(model, lora[0], 0.8)[0], lora[0], 0.3)
    turned = bridge.apply_lora(with_stock_lora(model, lora[0], 0.8), lora[0], 0.3)[0]
    tensors = tiny_loras.merge(tiny_loras.merge(load_file(checkpoint), lora[1], 0.8), lora[1], 0.3)
    merged = load_ours(bridge, save_checkpoint(tensors, golden_folder, tmp_path / "twice.safetensors"))
    clips = [sample(bridge, each) for each in (both, turned, merged)]
    assert torch.equal(clips[0], clips[2])
    assert torch.equal(clips[1], clips[2])


@pytest.mark.parametrize("load", [load_ours, load_native])
def test_every_raw_parameter_takes_effect_alone(bridge, checkpoint, original, golden_folder, tmp_path, load):
    model = load(bridge, checkpoint)
    tensors = load_file(checkpoint)
    for name in RAW:
        (change,) = tiny_loras.differences({name: tensors[name].shape}, [name])
        save_file({f"diffusion_model.{name}.diff": change.parts["diff"]}, tmp_path / "raw.safetensors")
        clip = sample(bridge, bridge.apply_lora(model, str(tmp_path / "raw.safetensors"), 0.8)[0])
        merged = save_checkpoint(tiny_loras.merge(tensors, [change], 0.8), golden_folder, tmp_path / f"{name}.safetensors")
        assert not torch.equal(clip, original), name
        assert torch.equal(clip, sample(bridge, load_ours(bridge, merged))), name


@pytest.mark.parametrize("load", [load_ours, load_native])
def test_weights_are_as_before_once_unpatched(bridge, checkpoint, lora, load):
    import comfy.model_management

    model = load(bridge, checkpoint)
    parameters = dict(model.model.diffusion_model.named_parameters())
    sample(bridge, bridge.apply_lora(model, lora[0], 0.8)[0])
    assert any(parameter is not parameters[name] for name, parameter in model.model.diffusion_model.named_parameters())
    comfy.model_management.unload_all_models()
    tensors = load_file(checkpoint)
    for name in RAW:
        assert model.model.diffusion_model.get_parameter(name) is parameters[name]
    for name, parameter in model.model.diffusion_model.named_parameters():
        assert torch.equal(parameter, tensors[name]), name


def test_bf16_weights_are_rounded_once(bridge, checkpoint, lora, golden_folder, tmp_path):
    options = {**OPTIONS, "weight_dtype": "bf16"}
    base = {name: tensor.bfloat16().float() for name, tensor in load_file(checkpoint).items()}
    merged = {name: tensor.bfloat16() for name, tensor in tiny_loras.merge(base, lora[1], 0.8).items()}
    path = save_checkpoint(merged, golden_folder, tmp_path / "merged.safetensors")
    model = bridge.apply_lora(bridge.load_diffusion_model(checkpoint, options), lora[0], 0.8)[0]
    assert torch.equal(sample(bridge, model), sample(bridge, bridge.load_diffusion_model(path, options)))


def test_the_fingerprint_tells_strengths_apart_and_does_not_depend_on_patching(bridge, checkpoint, lora):
    identity = pack_module("wan_s2v_model.runs.fingerprint").model_identity
    model = load_ours(bridge, checkpoint)
    strong, weak, again = (bridge.apply_lora(model, lora[0], strength)[0] for strength in (0.8, 0.3, 0.8))
    identities = [identity(each)["loras"] for each in (model, strong, weak)]
    assert len(set(identities)) == 3
    assert identity(again) == identity(strong) == identity(bridge.with_s2v_forward(strong))


def test_report_and_log_name_what_does_not_fit(bridge, checkpoint, lora, caplog):
    tensors = load_file(lora[0])
    tensors["diffusion_model.blocks.0.cross_attn.k_img.diff_b"] = torch.ones(256)
    tensors["diffusion_model.blocks.1.modulation.diff"] = torch.ones(1, 6, 128)
    save_file(tensors, lora[0])
    with caplog.at_level("INFO", logger="wan_s2v"):
        _, report = bridge.apply_lora(load_ours(bridge, checkpoint), lora[0], 0.8)
    messages = [record.getMessage() for record in caplog.records if record.name == "wan_s2v"]
    total = len(tensors)
    assert messages[0].startswith(f"LoRA lightx2v.safetensors: {total - 2} of {total} tensors fit")
    assert messages[0].endswith("strength 0.8")
    assert messages[1:] == [
        "LoRA lightx2v.safetensors: 1 tensors not used, for the picture input of Wan image-to-video: "
        "diffusion_model.blocks.0.cross_attn.k_img.diff_b",
        "LoRA lightx2v.safetensors: 1 tensors not used, of the wrong shape: "
        "diffusion_model.blocks.1.modulation.diff (1, 6, 128) instead of (1, 6, 256)",
    ]
    assert messages[1].rpartition(" ")[2] in report


@pytest.mark.parametrize(("shapes", "target"), APPLICABLE)
def test_comfyui_applies_the_adapters_that_pass_the_check(bridge, shapes, target, caplog):
    import comfy.lora

    read_lora = pack_module("wan_s2v_model.checkpoints.lora").read_lora
    generator = torch.Generator().manual_seed(0)
    tensors = {f"blocks.0.layer.{part}": torch.rand(shape, generator=generator) for part, shape in shapes.items()}
    lora = read_lora(tensors, {"blocks.0.layer.weight": target}, "lora.safetensors")
    patches = comfy.lora.load_lora(lora.tensors, lora.targets, log_missing=False)
    weight = torch.ones(target)
    changed = comfy.lora.calculate_weight([(0.8, patches["blocks.0.layer.weight"], 1.0, None, None)], weight.clone(), "layer")
    assert changed.shape == weight.shape
    assert not torch.equal(changed, weight)
    assert caplog.messages == []


def test_another_model_is_refused(bridge, checkpoint, lora):
    stranger = load_ours(bridge, checkpoint).clone()
    stranger.model = torch.nn.Module()
    stranger.model.diffusion_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"connected MODEL is not a Wan2\.2-S2V transformer"):
        bridge.apply_lora(stranger, lora[0], 1.0)

"""Two MODELs are the same by content, wherever their file lies and whatever computes; everything that other nodes put on one counts."""

import functools
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.wan_s2v_model.audio.features import EncodedAudio
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.audio_input import Sound
from wan_s2v_pack.wan_s2v_model.origin import identity_of, made_of
from wan_s2v_pack.wan_s2v_model.runs.identity import (
    attachments,
    content_of,
    model_identity,
    note_pictures,
    note_sound,
    note_text,
    vae_identity,
)

WIDE = 256  # values of a side: its matrix is too large to be read whole


def network(value):
    layer = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(layer.weight, value)
    torch.nn.init.constant_(layer.bias, value)
    return layer


def weights(value=0.0, norm=0.0):
    return {"q.weight": torch.full((WIDE, WIDE), value), "norm.weight": torch.full((WIDE,), norm)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights(), path)
    return path


@pytest.fixture
def model(file):
    """As ComfyUI's ModelPatcher."""
    options = {"weight_dtype": "bf16", "precision": "official"}
    attached = {"model_options": {"transformer_options": {}}, "wrappers": {}, "object_patches": {}, "additional_models": {}}
    return SimpleNamespace(cached_patcher_init=(None, (str(file), options)), patches={}, backup={}, model=network(1.0), **attached)


# Weights


def test_a_copy_of_the_file_is_the_same_model(model, file, tmp_path):
    """It had another time of change, and the run was refused."""
    before = model_identity(model)
    copy = tmp_path / "elsewhere" / "renamed.safetensors"
    copy.parent.mkdir()
    shutil.copyfile(file, copy)
    os.utime(copy, ns=(1, 1))
    model.cached_patcher_init = (None, (str(copy), *model.cached_patcher_init[1][1:]))
    assert model_identity(model) == before


@pytest.mark.parametrize("changed", [{"value": 1.0}, {"norm": 1.0}])
def test_another_content_of_the_same_size_shows_whatever_the_time_of_change(model, file, changed):
    before, facts = model_identity(model)["model"], file.stat()
    save_file(weights(**changed), file)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_size == facts.st_size
    assert model_identity(model)["model"] != before


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_files_of_other_formats_are_told_apart(tmp_path, size):
    path = tmp_path / "model.gguf"
    contents = [b"GGUF" + os.urandom(size) for _ in range(3)]
    seen = set()
    for content in contents:
        path.write_bytes(content)
        assert content_of(path) == content_of(path)
        seen.add(content_of(path))
    assert len(seen) == len(set(contents))


def test_of_a_large_file_a_sample_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        header = json.dumps({"w": {"dtype": "U8", "shape": [2**35], "data_offsets": [0, 2**35]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**35)  # 34 GB that are not there
    before = content_of(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert content_of(path) != before


@pytest.mark.parametrize("replaced", ["a.safetensors", "b.safetensors"])
def test_replaced_shard_shows(model, tmp_path, replaced):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    for name in ("a.safetensors", "b.safetensors"):
        save_file(weights(), tmp_path / name)
    model.cached_patcher_init = (None, (str(index), {}))
    before = model_identity(model)
    os.utime(tmp_path / replaced, ns=(1, 1))
    assert model_identity(model) == before
    save_file(weights(1.0), tmp_path / replaced)
    assert model_identity(model) != before


def test_options_of_the_loader_count_but_folders_devices_and_objects_do_not(model):
    path, options = model.cached_patcher_init[1]
    seen = set()
    for place in ("/home/a/embeddings", "C:\\b\\embeddings"):
        for device in ("cpu", "cuda:1"):
            others = [place], {**options, "device": torch.device(device)}, object()
            model.cached_patcher_init = (None, (path, *others))
            seen.add(model_identity(model)["model"])
    assert len(seen) == 1
    model.cached_patcher_init = (None, (path, {**options, "precision": "fast"}))
    assert model_identity(model)["model"] not in seen


class PackedTensor(torch.Tensor):
    """As a GGUF loader's: bytes of blocks under the shape of what they stand for."""

    tensor_type = 8

    @property
    def shape(self):
        return torch.Size([WIDE, WIDE])


def packed(bits, value=0):
    layer = network(1.0)
    quantised = torch.full((WIDE, WIDE * bits // 8), value, dtype=torch.uint8).as_subclass(PackedTensor)
    quantised.tensor_type = bits
    layer.weight = torch.nn.Parameter(quantised, requires_grad=False)
    return layer


def test_another_quantisation_of_an_unknown_loader_shows(model):
    """Biases and norms are the same in all of them, and only these were looked at: Q4 went on with a run of Q8."""
    model.cached_patcher_init = None
    seen = []
    for bits, value in ((8, 0), (4, 0), (8, 1), (8, 0)):
        model.model = packed(bits, value)
        seen.append(model_identity(model)["model"])
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_models_of_an_unknown_loader_differ_by_any_weight(model):
    model.cached_patcher_init = None
    first = model_identity(model)["model"]
    for name in ("weight", "bias"):
        model.model = network(1.0)
        getattr(model.model, name).data[-1] = 2.0
        assert model_identity(model)["model"] != first
    model.model = network(1.0)
    assert model_identity(model)["model"] == first


def test_weights_count_as_they_were_before_a_lora_changed_them_in_place(model):
    model.cached_patcher_init = None
    before = model_identity(model)
    model.backup = {"weight": SimpleNamespace(weight=model.model.weight.detach().clone())}
    model.model.weight.data += 1
    assert model_identity(model) == before


def test_a_loader_that_names_no_file_is_an_unknown_one(model):
    model.cached_patcher_init = None
    expected = model_identity(model)
    for arguments in ((), ({"q.weight": torch.zeros(2)},), ("/gone/model.safetensors",)):
        model.cached_patcher_init = (None, arguments)
        assert model_identity(model) == expected


# LoRAs


def lora(value=1.0, alpha=1.0, strength=0.8, rest=(1.0, None, None)):
    weights = SimpleNamespace(weights=(torch.full((4, 2), value), torch.ones(2, 4), alpha, None))
    return {"blocks.0.self_attn.q.weight": [(strength, weights, *rest)]}


def test_everything_of_a_lora_shows(model):
    narrowed = (1.0, (0, 0, 2), None)
    half = (1.0, None, functools.partial(torch.mul, 0.5))
    plain = {"k.weight": [(1.0, ("diff", (torch.ones(2),)), 1.0, None, None)]}
    as_is = {"k.weight": [(1.0, ("set", (torch.ones(2),)), 1.0, None, None)]}
    others = [lora(), lora(2.0), lora(alpha=2.0), lora(strength=0.5), lora(rest=narrowed), lora(rest=half), plain, as_is, {}]
    seen = []
    for model.patches in (*others, lora()):
        seen.append(model_identity(model)["loras"])
    assert len(set(seen)) == len(others)
    assert seen[-1] == seen[0]


# What other nodes put on it


def holder(threshold):
    return SimpleNamespace(name="EasyCache", reuse_threshold=threshold, cumulative_change_rate=torch.rand(1).item())


def rescaled(multiplier):
    return lambda args: args * multiplier


def attention(kernel, **options):
    """As nodes for SageAttention make it."""

    def override(func, *args, **kwargs):
        return kernel(func, *args, **options, **kwargs)

    return override


class Sage:
    def __init__(self, mode):
        self.mode = mode

    def __call__(self, func, *args, **kwargs):
        return func(*args, **kwargs)


def in_transformer(**options):
    return {"model_options": {"transformer_options": options}}


OTHER = SimpleNamespace(
    cached_patcher_init=None, patches=lora(), model=network(1.0), model_options={}, wrappers={}, object_patches={}, load_device="cuda:1"
)
ATTACHMENTS = {
    "a wrapper": {"wrappers": {"outer_sample": {"easycache": [print]}}},
    "another wrapper under the same name": {"wrappers": {"outer_sample": {"easycache": [rescaled(2.0)]}}},
    "another number in a wrapper": {"wrappers": {"outer_sample": {"easycache": [rescaled(3.0)]}}},
    "a cache node": in_transformer(easycache=holder(0.2)),
    "another threshold": in_transformer(easycache=holder(0.3)),
    "a patch": in_transformer(patches={"double_block": [print]}),
    "another number in a patch": in_transformer(patches={"double_block": [rescaled(0.5)]}),
    "a replaced block": in_transformer(patches_replace={"dit": {("double_block", 1): print}}),
    "another function in its place": in_transformer(patches_replace={"dit": {("double_block", 1): rescaled(1.0)}}),
    "an attention": in_transformer(optimized_attention_override=attention(print)),
    "another option of it": in_transformer(optimized_attention_override=attention(print, smooth_k=True)),
    "another kernel": in_transformer(optimized_attention_override=attention(rescaled)),
    "an attention as a partial": in_transformer(optimized_attention_override=functools.partial(print, sep="fp8")),
    "another one": in_transformer(optimized_attention_override=functools.partial(print, sep="fp16")),
    "an attention as an object": in_transformer(optimized_attention_override=Sage("fp8")),
    "another mode": in_transformer(optimized_attention_override=Sage("fp16")),
    "an object in a function": in_transformer(optimized_attention_override=attention(Sage("fp8"))),
    "another object in it": in_transformer(optimized_attention_override=attention(Sage("fp16"))),
    "a number": in_transformer(nag_scale=11.0),
    "a shift": {"object_patches": {"model_sampling": SimpleNamespace(shift=8.0)}},
    "another shift": {"object_patches": {"model_sampling": SimpleNamespace(shift=5.0)}},
    "guidance by a function": {"model_options": {"sampler_post_cfg_function": [rescaled(0.7)]}},
    "guidance by the same function with another number": {"model_options": {"sampler_post_cfg_function": [rescaled(0.5)]}},
    "guidance by another name": {"model_options": {"sampler_pre_cfg_function": [rescaled(0.7)]}},
    "context windows": {"model_options": {"context_handler": SimpleNamespace(context_length=81)}},
    "a replaced method": {"object_patches": {"diffusion_model.head.forward": print}},
    "a callback": {"callbacks": {"on_load": {None: [print]}}},
    "an attachment": {"attachments": {"nag": SimpleNamespace(scale=11.0)}},
    "another attachment": {"attachments": {"nag": SimpleNamespace(scale=5.0)}},
    "an injection": {"injections": {"nag": [SimpleNamespace(inject=rescaled(1.0))]}},
    "a wrapped weight": {"weight_wrapper_patches": {"q.weight": [rescaled(1.0)]}},
    "another model": {"additional_models": {"side": [OTHER]}},
}


def test_each_thing_that_other_nodes_put_on_the_model_shows(model):
    """Of attention overrides, attachments and callbacks nothing was seen, of patches and wrappers only the names."""
    plain, seen = vars(model).copy(), {}
    for name, attributes in ATTACHMENTS.items():
        patched = SimpleNamespace(**{**plain, **attributes})
        seen[name] = attachments(patched)
        assert attachments(patched) == seen[name]
    assert len({"", *seen.values()}) == 1 + len(ATTACHMENTS)


EMPTY = {
    "no wrapper": {"wrappers": {"outer_sample": {"easycache": []}}},
    "no option": in_transformer(patches={}, patches_replace={"dit": {}}),
}
GPUS = {
    "shares of GPUs": {"model_options": {"multigpu_options": {torch.device("cuda:1"): {"relative_speed": 1.0}}, "transformer_options": {}}},
    "the models on them": {"additional_models": {"multigpu": [OTHER]}},
}


@pytest.mark.parametrize("name", [*EMPTY, *GPUS])
def test_nothing_and_more_gpus_are_nothing(model, name):
    """Another number of GPUs was refused."""
    assert attachments(SimpleNamespace(**{**vars(model), **{**EMPTY, **GPUS}[name]})) == ""


def test_state_of_a_cache_node_does_not_show(model):
    seen = set()
    for _ in range(2):
        model.model_options = in_transformer(easycache=holder(0.2))["model_options"]
        seen.add(attachments(model))
    assert len(seen) == 1


def copy_of(model, folder):
    """The same file on another machine: other folder, other time; loaded into another type."""
    folder.mkdir()
    file = shutil.copy(model.cached_patcher_init[1][0], folder)
    os.utime(file, ns=(1, 1))
    return SimpleNamespace(**{**vars(model), "cached_patcher_init": (None, (file, model.cached_patcher_init[1][1])), "model": network(2.0)})


def test_a_vae_is_its_file_and_not_the_type_that_suits_the_gpu(model, tmp_path):
    here = SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network(1.0), patcher=model)
    there = SimpleNamespace(vae_dtype=torch.bfloat16, first_stage_model=network(2.0), patcher=copy_of(model, tmp_path / "there"))
    assert vae_identity(here) == vae_identity(there)
    save_file(weights(1.0), tmp_path / "there" / "model.safetensors")
    assert vae_identity(here) != vae_identity(there)


def test_a_vae_of_another_loader_is_its_weights(model):
    one, two = (SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network(value)) for value in (1.0, 2.0))
    assert vae_identity(one) != vae_identity(two)


def test_a_text_is_named_by_its_words_and_the_encoder_file(model, tmp_path):
    def named(text, patcher=model, **clip):
        return identity_of(note_text([[torch.rand(1, 5, 8), {}]], SimpleNamespace(patcher=patcher, **clip), text)[0][0])

    assert named("a") == named("a") == named("a", copy_of(model, tmp_path / "there"))
    assert len({named("a"), named("b"), named("a", layer_idx=-2), named("a", SimpleNamespace(**{**vars(model), "patches": LORA}))}) == 4


LORA = {"layer.weight": [(1.0, torch.ones(4, 3))]}


def test_a_sound_is_named_by_its_samples_and_the_encoder_file(file):
    def named(value=0.5, settings="file 0.0", dtype=torch.float16):
        encoded = EncodedAudio(torch.rand(2, 3, 8), torch.rand(1, 8000), 16_000, 8000)
        encoder = SimpleNamespace(file=file, dtype=dtype)
        sound = Sound(torch.full((1, 8000), value), 16_000)
        noted = note_sound(encoded, encoder, (sound, sound), settings)
        return identity_of(noted.features, noted.waveform)

    assert named() == named()
    assert len({named(), named(0.6), named(settings="window 0.0"), named(dtype=torch.float32)}) == 4


def test_a_picture_is_named_by_its_pixels_size_and_vae(model):
    vae = SimpleNamespace(patcher=model)

    def named(value=0.5, width=64, vae=vae, previous=None):
        timeline = plan_timeline(16_000, 16_000, 16_000, frames_per_clip=16)
        pose = (made_of(torch.rand(1, 16, 4, 8, 8), "pose"),)
        encoded = {"ref_latents": torch.rand(1, 16, 1, 8, 8), "history": torch.rand(73, 64, width, 3), "pose_latents": pose}
        plan = Plan(timeline, 64, width, torch.ones(2, 3, 16), torch.ones(1, 16_000), 16_000, **encoded)
        note_pictures(plan, vae, torch.full((64, 64, 3), value), previous, "free")
        return [identity_of(plan.ref_latents), identity_of(plan.history), identity_of(*plan.pose_latents)]

    def changed(**change):
        return [a != b for a, b in zip(named(), named(**change), strict=True)]

    assert changed() == [False, False, False]
    assert changed(value=0.6) == [True, True, False]
    assert changed(width=80) == [True, True, True]
    assert changed(vae=SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network(2.0))) == [True, False, True]
    assert changed(previous=torch.ones(4, 8, 8, 3)) == [False, True, False]

"""The names that LoRA files use, what they mean for our model, and what is said of the rest."""

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.scripts.tiny_models import loras as tiny_loras
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.lora import LIVE_AVATAR_MODULES, diffusers_name, module_of, read_lora
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B, WanS2VConfig

CONFIG = WanS2VConfig(dim=256, ffn_dim=512, num_layers=2, text_dim=64, audio_dim=32, audio_inject_layers=(0, 1))
SHAPES = expected_shapes(CONFIG)
Q = "blocks.0.self_attn.q"


def zeros(*shape):
    return torch.zeros(shape)


def pair(stem, down="lora_down.weight", up="lora_up.weight", rank=2, rows=256, columns=256):
    return {f"{stem}.{down}": zeros(rank, columns), f"{stem}.{up}": zeros(rows, rank)}


def read(tensors):
    return read_lora(tensors, SHAPES, "some.safetensors")


# --- Live-Avatar


LIVE_MODULES = {
    *(f"blocks.{block}.{part}" for block in range(2) for part in ("ffn.0", "ffn.2")),
    *(f"blocks.{block}.{attention}.{part}" for block in range(2) for attention in ("self_attn", "cross_attn") for part in "qkvo"),
    *(f"audio_injector.injector.{index}.{part}" for index in range(2) for part in "qkvo"),
}


def live_avatar(prefix="", name=".default", rank=8, modules=LIVE_MODULES):
    shapes = {module: SHAPES[f"{module}.weight"] for module in modules}
    tensors = {}
    for module, (rows, columns) in shapes.items():
        tensors |= pair(f"{prefix}{module}", f"lora_A{name}.weight", f"lora_B{name}.weight", rank, rows, columns)
    return tensors


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "diffusion_model."])
@pytest.mark.parametrize("name", ["", ".default"])
def test_live_avatars_lora_gets_the_alpha_of_its_training(prefix, name):
    lora = read(live_avatar(prefix, name))
    assert lora.is_live_avatar
    assert set(lora.targets) == LIVE_MODULES
    assert {float(lora.tensors[f"{module}.alpha"]) for module in LIVE_MODULES} == {4.0}
    assert "strength 1 adds rank 8 times 0.5 (28 changes)" in lora.report()
    assert "no alpha" not in lora.report()


def test_its_448_modules_at_full_size():
    shapes = expected_shapes(S2V_14B)
    with torch.device("meta"):
        modules = {module_of(name) for name in shapes if LIVE_AVATAR_MODULES.fullmatch(name)}
        tensors = {}
        for module in modules:
            rows, columns = shapes[f"{module}.weight"]
            tensors |= pair(module, "lora_A.default.weight", "lora_B.default.weight", 128, rows, columns)
    lora = read_lora(tensors, shapes, "liveavatar.safetensors")
    assert (len(modules), len(tensors), sum(tensor.numel() for tensor in tensors.values())) == (448, 896, 676_331_520)
    assert lora.is_live_avatar
    assert float(lora.tensors["blocks.39.ffn.2.alpha"]) == 64


def test_an_alpha_that_the_file_has_stays():
    lora = read({**live_avatar(), **{f"{module}.alpha": torch.tensor(2.0) for module in LIVE_MODULES}})
    assert lora.is_live_avatar
    assert {float(lora.tensors[f"{module}.alpha"]) for module in LIVE_MODULES} == {2.0}
    assert lora.alphas == {}


@pytest.mark.parametrize(
    "tensors",
    [live_avatar(rank=4), live_avatar(modules=LIVE_MODULES - {Q}), {**live_avatar(), **pair("head.head", rank=8, rows=64)}],
    ids=["another rank", "a module less", "a module more"],
)
def test_what_only_looks_like_it_stays_unscaled(tensors):
    lora = read(tensors)
    assert not lora.is_live_avatar
    assert not any(name.endswith(".alpha") for name in lora.tensors)


# --- what fits


@pytest.mark.parametrize(
    ("stem", "down", "up"),
    [
        ("lora_unet_blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight"),
        ("lora_unet__blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight"),
        ("lycoris_blocks_0_attn1_to_q", "lora_down.weight", "lora_up.weight"),
        ("lora_transformer_blocks_0_attn1_to_q", "lora_down.weight", "lora_up.weight"),
        ("blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("blocks.0.self_attn.q", "lora_A.default.weight", "lora_B.default.weight"),
        ("diffusion_model.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("diffusion_model.blocks.0.self_attn.q", "lora_down.weight", "lora_up.weight"),
        ("model.diffusion_model.blocks.0.self_attn.q", "lora_down.weight", "lora_up.weight"),
        ("base_model.model.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("unet.base_model.model.blocks.0.self_attn.q", "lora_A.turbo.weight", "lora_B.turbo.weight"),
        ("pipe.dit.blocks.0.self_attn.q", "lora_A.default.weight", "lora_B.default.weight"),
        ("transformer.blocks.0.attn1.to_q", "lora_A.weight", "lora_B.weight"),
        ("transformer.blocks.0.attn1.to_q", "lora.down.weight", "lora.up.weight"),
        ("blocks.0.attn1.to_q", "lora_A", "lora_B"),
        ("base_model.model.blocks.0.self_attn.q", "lora_A.my-adapter.weight", "lora_B.my-adapter.weight"),
        ("unet.blocks.0.attn1.to_q", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        ("module.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("net.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("_orig_mod.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("_orig_mod.module.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("base_model.model._orig_mod.blocks.0._checkpoint_wrapped_module.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.self_attn.q", "lora_A.default.weight", "lora_B.default.weight"),
        ("blocks.0.module.self_attn.q", "lora_A.weight", "lora_B.weight"),
        ("lora_unet__orig_mod_blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight"),
        ("lora_unet_blocks_0__orig_mod_self_attn_q", "lora_down.weight", "lora_up.weight"),
    ],
)
def test_every_dialect_names_the_same_layer(stem, down, up):
    lora = read({**pair(stem, down, up), f"{stem}.alpha": torch.tensor(1.0)})
    assert set(lora.tensors) == {f"{Q}.lora_down.weight", f"{Q}.lora_up.weight", f"{Q}.alpha"}
    assert lora.targets == {Q: f"{Q}.weight"}
    assert lora.unused == {}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blocks.1.self_attn.o", "blocks.1.attn1.to_out.0"),
        ("blocks.1.self_attn.norm_q", "blocks.1.attn1.norm_q"),
        ("blocks.1.cross_attn.k", "blocks.1.attn2.to_k"),
        ("blocks.1.cross_attn.v", "blocks.1.attn2.to_v"),
        ("blocks.1.cross_attn.norm_k", "blocks.1.attn2.norm_k"),
        ("blocks.1.ffn.0", "blocks.1.ffn.net.0.proj"),
        ("blocks.1.ffn.2", "blocks.1.ffn.net.2"),
        ("blocks.1.norm3", "blocks.1.norm2"),
        ("blocks.1.modulation", "blocks.1.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("head.head", "proj_out"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("patch_embedding", "patch_embedding"),
        ("audio_injector.injector.0.q", "audio_injector.injector.0.to_q"),
        ("audio_injector.injector.11.o", "audio_injector.injector.11.to_out.0"),
        ("audio_injector.injector.0.norm_k", "audio_injector.injector.0.norm_k"),
        ("audio_injector.injector_adain_layers.0.linear", "audio_injector.injector_adain_layers.0.linear"),
    ],
)
def test_names_of_diffusers(ours, theirs):
    assert diffusers_name(ours) == theirs


def test_no_two_layers_share_a_name():
    modules = {module_of(name) for name in expected_shapes(S2V_14B)}
    names = [name for module in modules for name in {module, diffusers_name(module)}]
    assert len({name.replace(".", "_") for name in names}) == len(names)


@pytest.mark.parametrize(
    ("key", "shape", "meant", "target"),
    [
        ("diffusion_model.blocks.0.self_attn.norm_k.diff", (256,), "blocks.0.self_attn.norm_k.diff", "blocks.0.self_attn.norm_k.weight"),
        ("diffusion_model.blocks.0.norm3.diff_b", (256,), "blocks.0.norm3.diff_b", "blocks.0.norm3.weight"),
        ("lora_unet_blocks_0_norm3.w_norm", (256,), "blocks.0.norm3.diff", "blocks.0.norm3.weight"),
        ("lora_unet_blocks_0_norm3.b_norm", (256,), "blocks.0.norm3.diff_b", "blocks.0.norm3.weight"),
        ("diffusion_model.blocks.0.modulation.diff", (1, 6, 256), "blocks.0.modulation.diff", "blocks.0.modulation"),
        ("blocks.0.diff_m", (1, 6, 256), "blocks.0.modulation.diff", "blocks.0.modulation"),
        ("diffusion_model.head.diff_m", (1, 2, 256), "head.modulation.diff", "head.modulation"),
        ("transformer.scale_shift_table.diff", (1, 2, 256), "head.modulation.diff", "head.modulation"),
        ("casual_audio_encoder.weights.diff", (1, 25, 1, 1), "casual_audio_encoder.weights.diff", "casual_audio_encoder.weights"),
        ("diffusion_model.patch_embedding.diff", (256, 16, 1, 2, 2), "patch_embedding.diff", "patch_embedding.weight"),
        (f"diffusion_model.{Q}.set_weight", (256, 256), f"{Q}.set_weight", f"{Q}.weight"),
        (f"diffusion_model.{Q}.oft_blocks", (4, 64, 64), f"{Q}.oft_blocks", f"{Q}.weight"),
    ],
)
def test_changes_of_one_tensor(key, shape, meant, target):
    lora = read({key: zeros(*shape)})
    assert list(lora.tensors) == [meant]
    assert list(lora.targets.values()) == [target]


def test_low_rank_of_a_convolution():
    lora = read({"patch_embedding.lora_down.weight": zeros(2, 16, 1, 2, 2), "patch_embedding.lora_up.weight": zeros(256, 2, 1, 1, 1)})
    assert lora.changes == {"low rank": ["patch_embedding"]}


def test_a_wrapped_net_of_diffusers_keeps_its_name():
    lora = read(pair("net.transformer.blocks.0.ffn.net.2", "lora_A.weight", "lora_B.weight", columns=512))
    assert lora.targets == {"blocks.0.ffn.2": "blocks.0.ffn.2.weight"}


def test_injectors_under_the_names_of_both_libraries():
    for stem in ("audio_injector.injector.1.v", "transformer.audio_injector.injector.1.to_v", "lycoris_audio_injector_injector_1_to_v"):
        assert read(pair(stem)).targets == {"audio_injector.injector.1.v": "audio_injector.injector.1.v.weight"}


@pytest.mark.parametrize("name", ["", ".weight", ".default", ".default.weight", ".my-adapter.weight"])
def test_magnitudes_of_a_dora_keep_their_axes(name):
    lora = read({**pair(Q, "lora_A.weight", "lora_B.weight"), f"{Q}.lora_magnitude_vector{name}": zeros(256)})
    assert lora.tensors[f"{Q}.dora_scale"].shape == (256, 1)


@pytest.mark.parametrize("dialect", tiny_loras.DIALECTS)
def test_all_of_a_tiny_lora_is_read(dialect, tmp_path):
    changes = tiny_loras.write_lora(dialect, SHAPES, tmp_path / "lora.safetensors")
    lora = read(load_file(tmp_path / "lora.safetensors"))
    assert lora.unused == {}
    assert {module for modules in lora.changes.values() for module in modules} == {change.module for change in changes}


# --- what does not


FITTING = pair(f"diffusion_model.{Q}")


@pytest.mark.parametrize(
    ("key", "shape", "reason"),
    [
        ("diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight", (2, 256), "for the picture input of Wan image-to-video"),
        ("lora_unet_img_emb_proj_1.lora_up.weight", (256, 2), "for the picture input of Wan image-to-video"),
        ("transformer.blocks.0.attn2.add_k_proj.lora_A.weight", (2, 256), "for the picture input of Wan image-to-video"),
        ("transformer.condition_embedder.image_embedder.ff.net.2.lora_A.weight", (2, 256), "for the picture input of Wan image-to-video"),
        ("diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight", (2, 256), "for the control input of Wan VACE"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", (2, 256), "for a text encoder"),
        ("diffusion_model.blocks.2.self_attn.q.lora_A.weight", (2, 256), "for parts that this model does not have"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", (2, 256), "for parts that this model does not have"),
        ("diffusion_model.blocks.0.self_attn.norm_q.diff_b", (256,), "for parts that this model does not have"),
        ("diffusion_model.blocks.0.ffn.0.alpha", (), "an adapter without its other half"),
        ("diffusion_model.blocks.0.ffn.0.weight", (512, 256), "in a form that is not known"),
        (f"transformer.{Q}.lora_A.weight", (2, 256), "in the file twice, under two names"),
        (f"diffusion_model.{Q}.diff", (256, 256), "beside an adapter of the same module, which is used instead"),
    ],
)
def test_reason_why_a_tensor_is_not_used(key, shape, reason):
    lora = read({**FITTING, key: zeros(*shape)})
    assert lora.unused == {reason: [key]}
    assert lora.changes == {"low rank": [Q]}


@pytest.mark.parametrize(
    ("tensors", "found", "expected"),
    [
        (pair("blocks.0.ffn.0", rows=3072), (3072, 256), (512, 256)),
        (pair("blocks.0.cross_attn.q", columns=3072), (256, 3072), (256, 256)),
        ({"blocks.0.self_attn.k.diff_b": zeros(3072)}, (3072,), (256,)),
        ({"patch_embedding.diff": zeros(256, 36, 1, 2, 2)}, (256, 36, 1, 2, 2), (256, 16, 1, 2, 2)),
        ({"blocks.0.modulation.diff": zeros(1, 6, 128)}, (1, 6, 128), (1, 6, 256)),
        ({"blocks.0.ffn.2.lokr_w1": zeros(4, 4), "blocks.0.ffn.2.lokr_w2": zeros(64, 64)}, (256, 256), (256, 512)),
        (
            {f"blocks.0.ffn.2.lokr_{name}": zeros(*shape) for name, shape in {"w1": (4, 4), "w2_a": (64, 2), "w2_b": (2, 64)}.items()},
            (256, 256),
            (256, 512),
        ),
        (
            {f"blocks.0.ffn.2.hada_w{n}_{side}": zeros(*shape) for n in (1, 2) for side, shape in {"a": (256, 2), "b": (2, 64)}.items()},
            (256, 64),
            (256, 512),
        ),
    ],
)
def test_wrong_shapes_are_named_with_both(tensors, found, expected):
    lora = read({**FITTING, **tensors})
    assert lora.unused == {"of the wrong shape": [f"{key} {found} instead of {expected}" for key in tensors]}
    assert set(lora.targets) == {Q}


@pytest.mark.parametrize(
    ("tensors", "reason", "detail"),
    [
        ({"lora_down.weight": (2, 256)}, "an adapter without its other half", "(no lora_up.weight)"),
        ({"lora_down.weight": (0, 256), "lora_up.weight": (512, 0), "alpha": ()}, "an adapter of rank 0", ""),
        (
            {"lora_down.weight": (2, 256), "lora_up.weight": (512, 4)},
            "an adapter whose parts do not fit together",
            "(lora_up.weight (512, 4), lora_down.weight (2, 256))",
        ),
        ({"hada_w1_a": (512, 2), "hada_w1_b": (2, 256), "alpha": ()}, "an adapter without its other half", "(no hada_w2_a)"),
    ],
)
def test_an_adapter_with_a_fault_is_not_used_at_all(tensors, reason, detail):
    keys = {f"blocks.0.ffn.0.{part}": zeros(*shape) for part, shape in tensors.items()}
    lora = read({**FITTING, **keys})
    assert lora.unused == {reason: [f"{key} {detail}".rstrip() for key in keys]}
    assert lora.changes == {"low rank": [Q]}
    with pytest.raises(CheckpointError, match=rf"Nothing of the LoRA .*: {len(keys)} {reason} .*is incomplete or damaged; get it again\.$"):
        read(keys)


def test_a_difference_takes_the_place_of_a_faulty_adapter():
    lora = read({f"{Q}.lora_down.weight": zeros(2, 256), f"{Q}.diff": zeros(256, 256)})
    assert lora.changes == {"weight difference": [Q]}


def test_one_module_gets_one_kind_of_adapter():
    lora = read({**FITTING, f"{Q}.hada_w1_a": zeros(256, 2)})
    assert lora.unused == {"of a second kind of adapter for the same module": [f"{Q}.hada_w1_a"]}
    assert lora.changes == {"low rank": [Q]}


# --- what is said


def test_report_counts_what_changes_and_lists_what_does_not():
    strangers = {f"diffusion_model.blocks.{index}.cross_attn.k_img.diff_b": zeros(256) for index in range(4)}
    lora = read({**FITTING, **pair("blocks.1.self_attn.q"), "blocks.1.norm3.diff": zeros(256), **strangers})
    assert lora.summary == "some.safetensors: 5 of 9 tensors fit, 3 modules change (low rank 2, weight difference 1)"
    assert lora.report().splitlines() == [
        lora.summary,
        "low rank: self_attn.q 2",
        "weight difference: norm3 1",
        "2 low rank changes have no alpha: strength 1 adds them unscaled",
        "not used, for the picture input of Wan image-to-video (4):",
        *(f"  {key}" for key in strangers),
    ]
    first = ", ".join(list(strangers)[:3])
    assert lora.warnings() == [f"some.safetensors: 4 tensors not used, for the picture input of Wan image-to-video: {first}, ..."]


def test_report_says_nothing_of_alpha_where_there_is_one():
    assert "alpha" not in read({**FITTING, f"diffusion_model.{Q}.alpha": torch.tensor(1.0)}).report()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({name: zeros(1) for name in SHAPES}, "it looks like a Wan2.2-S2V transformer; pick it in Load Wan S2V Model"),
        ({"decoder.middle.0.residual.0.gamma": zeros(1)}, "it looks like a Wan VAE"),
        ({"something": zeros(1)}, "it looks like something else (1 tensors)"),
    ],
)
def test_a_file_that_is_no_lora_is_refused(tensors, words):
    with pytest.raises(CheckpointError) as error:
        read(tensors)
    assert str(error.value).startswith("some.safetensors is not a LoRA: it looks like")
    assert words in str(error.value)
    assert str(error.value).endswith("Pick a LoRA in models/loras.")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (pair("lora_unet_down_blocks_0_attentions_0_proj_in"), "2 for parts that this model does not have"),
        (pair(Q, rows=3072, columns=3072), f"2 of the wrong shape ({Q}.lora_down.weight (3072, 3072) instead of (256, 256)"),
        (pair(Q, rows=3072, columns=3072), "It was made for a Wan model of 5B (width 3072)."),
        (pair("transformer.blocks.0.attn1.to_q", rows=1536, columns=1536), "It was made for a Wan model of 1.3B (width 1536)."),
        (pair(Q, rows=2048, columns=2048), "It was made for another model."),
        (pair(Q, columns=3072) | pair("blocks.1.self_attn.k", columns=1536), "It was made for another model."),
    ],
)
def test_a_lora_for_another_model_is_refused(tensors, reason):
    with pytest.raises(CheckpointError) as error:
        read(tensors)
    assert str(error.value).startswith("Nothing of the LoRA some.safetensors fits Wan2.2-S2V-14B: ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{Q}.lora_A.one.two.weight": zeros(2, 256), f"{Q}.lora_B.one.two.weight": zeros(256, 2)},
        {"patch_embedding.lora_mid.weight": zeros(2, 2, 1, 2, 2)},
    ],
)
def test_a_lora_in_a_form_that_cannot_be_read_is_called_a_lora(tensors):
    with pytest.raises(CheckpointError, match=r"^Nothing of the LoRA .*The help page of this node lists the forms that it reads\.$"):
        read(tensors)

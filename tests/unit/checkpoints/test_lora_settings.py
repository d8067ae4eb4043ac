"""Alpha and rank of a LoRA that are no tensors: found in the metadata or beside the file, used, and reported.

Before, such a file had "no alpha": a LoRA of alpha 64 and rank 16 was added with a quarter of its strength.
"""

import json
import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.lora import read_lora
from wan_s2v_pack.wan_s2v_model.checkpoints.lora_settings import LoraSettings, read_settings

Q, K, FFN = "blocks.0.self_attn.q", "blocks.0.self_attn.k", "blocks.0.ffn.0"
SHAPES = {f"{module}.weight": (8, 8) for module in (Q, K, FFN)}
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False}
METADATA, BESIDE = "the metadata of the file", "adapter_config.json"


def low_rank(*modules, rank=2, prefix="transformer."):
    parts = {"lora_A.weight": (rank, 8), "lora_B.weight": (8, rank)}
    return {f"{prefix}{module}.{part}": torch.ones(shape) for module in modules for part, shape in parts.items()}


def packed(part, **changes):
    """As diffusers writes the settings of one part of the pipeline."""
    return {f"{part}.{name}": value for name, value in {**PEFT, **changes}.items()}


def in_metadata(*parts):
    return {"format": "pt", "lora_adapter_metadata": json.dumps({key: value for part in parts for key, value in part.items()})}


@pytest.fixture
def found(tmp_path):
    """What is read for a file with this metadata and this adapter_config.json beside it."""

    def read(metadata=None, beside=None, name="lora.safetensors"):
        (tmp_path / name).touch()
        if beside is not None:
            (tmp_path / "adapter_config.json").write_text(beside if isinstance(beside, str) else json.dumps(beside))
        return read_settings(tmp_path / name, metadata)

    return read


# --- where they stand


@pytest.mark.parametrize(
    "metadata",
    [
        in_metadata(packed("transformer")),
        in_metadata(packed("text_encoder", lora_alpha=3), packed("transformer")),
        in_metadata(packed("unet")),
        {"lora_adapter_metadata": json.dumps(PEFT)},
        {"lora_alpha": "8", "r": "2"},
        {"transformer.lora_alpha": "8.0", "transformer.r": "2", "modelspec.title": "x"},
        {"lora_alpha": "8", "rank": "2"},
    ],
)
def test_metadata_of_the_file(found, metadata):
    assert found(metadata) == LoraSettings(METADATA, 8.0, 2)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "lora.safetensors"])
def test_configuration_beside_the_file(found, name):
    assert found(beside=PEFT, name=name) == LoraSettings(BESIDE, 8.0, 2)


def test_alpha_of_loha(found):
    assert found(beside={"peft_type": "LOHA", "r": 2, "alpha": 8}) == LoraSettings(BESIDE, 8.0, 2)


def test_metadata_wins_over_what_lies_beside_it(found):
    assert found(in_metadata(packed("transformer", lora_alpha=5)), {**PEFT, "lora_alpha": 6}) == LoraSettings(METADATA, 5.0, 2)


def test_patterns_and_root(found):
    patterns = {"alpha_pattern": {"ffn.0": 4}, "rank_pattern": {"ffn.0": 16}, "use_rslora": True}
    assert found(beside=PEFT | patterns) == LoraSettings(BESIDE, 8.0, 2, {"ffn.0": 4.0}, {"ffn.0": 16}, by_root=True)


def test_configuration_in_a_folder_of_many_loras_is_not_taken_for_each_of_them(found, tmp_path):
    (tmp_path / "another.safetensors").touch()
    assert found(beside=PEFT) is None
    assert found(beside=PEFT, name="adapter_model.safetensors") == LoraSettings(BESIDE, 8.0, 2)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"alpha": "8"},
        {"ss_network_alpha": "8"},
        {"lora_alpha": "none"},
        {"lora_alpha": "nan"},
        {"lora_adapter_metadata": "[1]"},
        {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": None, "transformer.alpha_pattern": 3})},
        in_metadata(packed("text_encoder")),
    ],
)
def test_nothing_is_noted(found, metadata):
    assert found(metadata) is None


def test_metadata_that_cannot_be_read_is_said(found, caplog):
    assert found({"lora_adapter_metadata": "{"}) is None
    assert caplog.messages == ["LoRA lora.safetensors: lora_adapter_metadata in its metadata is not valid JSON; an alpha in it is not used"]


def test_configuration_that_cannot_be_read_is_refused(found):
    with pytest.raises(
        CheckpointError, match=r"adapter_config\.json beside lora\.safetensors cannot be read, .* Get it again, or delete it"
    ):
        found(beside="{")


# --- what they do


def alphas(tensors, settings):
    lora = read_lora(tensors, SHAPES, "lora.safetensors", settings)
    return {name.removesuffix(".alpha"): float(tensor) for name, tensor in lora.tensors.items() if name.endswith(".alpha")}, lora


def test_alpha_is_used_and_reported():
    found, lora = alphas(low_rank(Q, K), LoraSettings(METADATA, 8.0, 2))
    assert found == {Q: 8.0, K: 8.0}
    assert "alpha from the metadata of the file: strength 1 adds rank 2 times 4 (2 changes)" in lora.report().splitlines()
    assert "no alpha" not in lora.report()
    assert lora.summary == "lora.safetensors: 4 of 4 tensors fit, 2 modules change (low rank 2)"


def test_without_settings_the_report_says_so():
    found, lora = alphas(low_rank(Q), None)
    assert found == {}
    assert "1 low rank changes have no alpha: strength 1 adds them unscaled" in lora.report().splitlines()


def test_alpha_among_the_tensors_wins():
    found, lora = alphas({**low_rank(Q, K), f"transformer.{Q}.alpha": torch.tensor(1.0)}, LoraSettings(METADATA, 8.0, 2))
    assert found == {Q: 1.0, K: 8.0}
    assert lora.noted_alphas() == ["alpha from the metadata of the file: strength 1 adds rank 2 times 4 (1 changes)"]


def test_root_of_the_rank():
    found, lora = alphas(low_rank(Q, rank=4), LoraSettings(BESIDE, 8.0, 4, by_root=True))
    assert found == {Q: pytest.approx(8 * math.sqrt(4))}
    assert lora.noted_alphas() == ["alpha from adapter_config.json: strength 1 adds rank 4 times 4 (1 changes)"]


@pytest.mark.parametrize(
    "pattern", ["q", "self_attn.q", r"blocks\.\d+\.self_attn\.q", "attn1.to_q", "^blocks.0.attn1.to_q", f"transformer.{Q}"]
)
def test_pattern_is_the_end_of_a_name(pattern):
    settings = LoraSettings(METADATA, 8.0, 2, {pattern: 3.0}, {})
    assert alphas(low_rank(Q, K), settings)[0] == {Q: 3.0, K: 8.0}


@pytest.mark.parametrize("pattern", ["elf_attn.q", "blocks.0", "v", "(", "blocks.1.self_attn.q"])
def test_pattern_of_another_module(pattern):
    assert alphas(low_rank(Q), LoraSettings(METADATA, 8.0, 2, {pattern: 3.0}))[0] == {Q: 8.0}


def test_modules_without_an_alpha_of_their_own_where_only_patterns_are_noted():
    found, lora = alphas(low_rank(Q, K), LoraSettings(METADATA, None, 2, {"q": 3.0}))
    assert found == {Q: 3.0}
    assert lora.without_alpha() == 1


def test_rank_of_a_module_with_its_own():
    settings = LoraSettings(METADATA, 8.0, 2, {}, {"ffn.0": 4})
    assert alphas({**low_rank(Q), **low_rank(FFN, rank=4)}, settings)[0] == {Q: 8.0, FFN: 8.0}


def test_settings_of_another_rank_are_not_used_and_that_is_said():
    found, lora = alphas(low_rank(Q, rank=4), LoraSettings(BESIDE, 8.0, 2))
    assert found == {}
    assert lora.noted_alphas() == ["alpha of adapter_config.json is not used, because it is for another rank than 4 (1 changes)"]
    assert "1 low rank changes have no alpha" in lora.report()


def test_loha_gets_it_too():
    parts = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}
    assert alphas({f"{Q}.{part}": torch.ones(shape) for part, shape in parts.items()}, LoraSettings(BESIDE, 8.0, 2))[0] == {Q: 8.0}


def test_other_changes_have_none():
    lokr = {f"{Q}.lokr_w1": torch.ones(2, 2), f"{Q}.lokr_w2": torch.ones(4, 4), f"{K}.diff": torch.ones(8, 8)}
    assert alphas(lokr, LoraSettings(BESIDE, 8.0, 2))[0] == {}

"""The convert command on small files: what it writes, how large it says that is, and what it refuses."""

import argparse
import itertools
import json
import os
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wan_s2v_pack.cli import convert as command
from wan_s2v_pack.cli.convert import writing
from wan_s2v_pack.wan_s2v_model.checkpoints.quantisation import PACKINGS, fit_marks, logical_shapes
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes
from wan_s2v_pack.wan_s2v_model.transformer.config import WanS2VConfig

formats = pytest.importorskip("wan_s2v_pack.cli.convert.formats", reason="comfy-kitchen comes with ComfyUI", exc_type=ImportError)

CONFIG = WanS2VConfig(dim=256, ffn_dim=512, num_layers=1, text_dim=32, audio_dim=32, audio_inject_layers=(0,))
METADATA = {"config": json.dumps({"transformer": {"audio_inject_layers": [0]}}), "author": "somebody"}
LAYER = "blocks.0.ffn.0"
ALL = {"float8_e4m3fn", *PACKINGS}
WEIGHT_ERROR = {"fp8_scaled": 0.04, "mxfp8": 0.04, "nvfp4": 0.15, "int8": 0.01, "int8_rotated": 0.01}


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in expected_shapes(CONFIG).items()}


@pytest.fixture
def source(tmp_path, weights):
    path = tmp_path / "wan_bf16.safetensors"
    save_file(weights, path, metadata=METADATA)
    return path


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["convert", *map(str, arguments)])
    return options.run(options)


def test_every_format_is_offered():
    assert list(command.NAMES) == list(formats.FORMATS)


@pytest.mark.parametrize("name", command.NAMES)
def test_converted_file_is_what_our_loader_expects(source, weights, name):
    assert run(source, "--to", name) == 0
    target = source.with_name(f"wan_{name}.safetensors")
    stored = fit_marks(load_file(target), ALL, target.name)
    shapes = logical_shapes(stored)
    assert {layer: shapes[layer] for layer in weights} == {layer: tuple(tensor.shape) for layer, tensor in weights.items()}
    packed = {mark.removesuffix(".comfy_quant") for mark in stored if mark.endswith(".comfy_quant")}
    assert packed == {
        layer.removesuffix(".weight")
        for layer, tensor in weights.items()
        if tensor.ndim == 2 and layer.startswith(("blocks.", "audio_injector.injector."))
    }
    assert all(torch.equal(stored[layer], tensor) for layer, tensor in weights.items() if layer.removesuffix(".weight") not in packed)
    with safe_open(target, framework="pt") as file:
        assert file.metadata() == METADATA


@pytest.mark.parametrize("name", command.NAMES)
def test_packed_matrix_stands_for_the_weights(weights, name):
    import comfy_kitchen.tensor

    weight = weights[f"{LAYER}.weight"].float()
    parts = formats.packed(weight, name)
    mark = json.loads(bytes(parts[".comfy_quant"].tolist()))
    layout = getattr(comfy_kitchen.tensor, formats.FORMATS[name].layout)
    scales = {"scale": parts.get(".weight_scale_2", parts[".weight_scale"])}
    if name == "nvfp4":
        scales["block_scale"] = parts[".weight_scale"]
    if name == "mxfp8":
        scales["scale"] = parts[".weight_scale"].view(torch.float8_e8m0fnu)
    rotation = {key: mark[key] for key in ("convrot", "convrot_groupsize") if key in mark}
    assert bool(rotation) == (name == "int8_rotated")
    settings = layout.Params(**scales, **rotation, orig_dtype=torch.float32, orig_shape=tuple(weight.shape))
    unpacked = layout.dequantize(parts[".weight"], settings)
    assert 0 < (unpacked - weight).norm() / weight.norm() < WEIGHT_ERROR[name]


@pytest.mark.parametrize("name", command.NAMES)
def test_matrix_of_zeros(name):
    parts = formats.packed(torch.zeros(32, 64), name)
    assert all(torch.isfinite(tensor.float()).all() for tensor in parts.values())


def test_dry_run_says_the_size_and_writes_nothing(source, capsys):
    assert run(source, "--to", "nvfp4", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "are packed to nvfp4" in said
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    run(source, "--to", "nvfp4")
    size = source.with_name("wan_nvfp4.safetensors").stat().st_size
    assert f"wan_nvfp4.safetensors: {size / 1e9:.2f} GB" in said


def test_shards_become_one_file(tmp_path, weights):
    folder = tmp_path / "Wan2.2-S2V-14B"
    folder.mkdir()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / shard)
        index |= dict.fromkeys(part, shard)
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"audio_inject_layers": [0]}))
    assert run(path, "--to", "int8") == 0
    with safe_open(tmp_path / "Wan2.2-S2V-14B_int8.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == {"transformer": {"audio_inject_layers": [0]}}
        assert f"{LAYER}.weight_scale" in set(file.keys())


def test_prefixed_names_are_those_of_the_model(tmp_path, weights):
    path = tmp_path / "wan.safetensors"
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}, path, metadata=METADATA)
    assert run(path, "--to", "int8") == 0
    assert set(weights) <= load_file(tmp_path / "wan_int8.safetensors").keys()


def refused(capsys, *arguments):
    assert run(*arguments) == 1
    return capsys.readouterr().err


def test_packed_file_is_refused(source, capsys):
    run(source, "--to", "fp8_scaled")
    message = refused(capsys, source.with_name("wan_fp8_scaled.safetensors"), "--to", "int8")
    assert "wan_fp8_scaled.safetensors is packed already" in message
    assert "Convert the bf16 or fp16 file" in message


def test_incomplete_file_is_refused_before_anything_is_written(tmp_path, weights, capsys):
    path = tmp_path / "wan.safetensors"
    save_file({name: tensor for name, tensor in weights.items() if name != "head.head.bias"}, path, metadata=METADATA)
    assert "1 tensors missing (head.head.bias)" in refused(capsys, path, "--to", "int8")
    assert list(tmp_path.iterdir()) == [path]


def test_other_model_and_no_file_are_refused(tmp_path, capsys):
    save_file({"decoder.head.0.gamma": torch.ones(4)}, tmp_path / "vae.safetensors")
    assert "it looks like a Wan VAE" in refused(capsys, tmp_path / "vae.safetensors", "--to", "int8")
    assert "There is no file" in refused(capsys, tmp_path / "nothing.safetensors", "--to", "int8")


def test_nan_is_refused_and_nothing_is_left(tmp_path, weights, capsys):
    path = tmp_path / "wan.safetensors"
    save_file({**weights, f"{LAYER}.weight": weights[f"{LAYER}.weight"] * float("nan")}, path, metadata=METADATA)
    assert f"{LAYER}.weight holds NaN" in refused(capsys, path, "--to", "int8")
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_is_there_stays_unless_forced(source, capsys):
    target = source.with_name("wan_int8.safetensors")
    target.write_text("precious")
    assert "is there already" in refused(capsys, source, "--to", "int8")
    assert target.read_text() == "precious"
    assert run(source, "--to", "int8", "--force") == 0
    assert LAYER + ".weight_scale" in load_file(target)
    assert "is there already" in refused(capsys, source, "--to", "int8", "--force", "--output", source)


def test_places_that_cannot_be_written(source, tmp_path, capsys, monkeypatch):
    assert "There is no folder" in refused(capsys, source, "--to", "int8", "--output", tmp_path / "nowhere" / "a.safetensors")
    assert "must end in .safetensors" in refused(capsys, source, "--to", "int8", "--output", tmp_path / "a.sft")
    monkeypatch.setattr(command.shutil, "disk_usage", lambda folder: argparse.Namespace(free=1000))
    assert "but only 0.00 GB are free" in refused(capsys, source, "--to", "int8")


def test_disk_that_fails_leaves_nothing(source, capsys, monkeypatch):
    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "cannot be read or written (No space left on device)" in refused(capsys, source, "--to", "int8")
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_interrupt_leaves_nothing(source, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "packed", interrupt)
    monkeypatch.setattr(formats, "packed_parts", lambda shape, name: {".weight": (torch.int8, shape)})
    assert run(source, "--to", "int8") == command.INTERRUPTED
    assert "nothing was written" in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_tensors_are_written_one_after_the_other(source, monkeypatch):
    """Of a file of 32 GB only one matrix may be in memory."""
    alive = []
    monkeypatch.setattr(writing, "raw_bytes", lambda tensor, bytes_of=writing.raw_bytes: alive.append(tensor.numel()) or bytes_of(tensor))
    packed = formats.packed
    monkeypatch.setattr(formats, "packed", lambda tensor, name: alive.append("packed") or packed(tensor, name))
    run(source, "--to", "int8")
    marks = [index for index, what in enumerate(alive) if what == "packed"]
    assert len(marks) > 1
    assert all(after - before > 1 for before, after in itertools.pairwise(marks))


def test_header_length_is_aligned():
    header = writing.file_header([("a", "F32", (1,), 4)], {"b": "2", "a": "1"})
    assert len(header) % 8 == 0
    assert struct.unpack("<Q", header[:8])[0] == len(header) - 8
    assert list(json.loads(header[8:])["__metadata__"]) == ["a", "b"]

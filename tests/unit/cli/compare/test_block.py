"""The block of text that goes into an issue."""

from __future__ import annotations

import pytest
from wan_s2v_pack.cli.compare.block import block_text, environment_lines, pack_version, without_paths
from wan_s2v_pack.cli.doctor.checks import Facts, Gpu, RuntimeFacts, TorchFacts
from wan_s2v_pack.cli.doctor.finding import OK, PROBLEM, Finding

FACTS = Facts(
    python="3.12.4 (/home/anna/comfy/python)",
    comfyui="/home/anna/ComfyUI",
    comfyui_version="0.30.0",
    torch=TorchFacts(version="2.11.0+cu130", gpus=(Gpu("NVIDIA GeForce RTX 4090", 24_000_000_000, (8, 9), "580.65"),)),
    runtime=RuntimeFacts(),
    ram_bytes=64_000_000_000,
)


def test_block_is_one_piece_with_a_verdict():
    text = block_text(["pack 0.1.0"], [Finding(OK, "Model calls", "the same function"), Finding(PROBLEM, "Picture", "noise", "Look.")])
    lines = text.splitlines()
    assert lines[0].startswith("----")
    assert lines[-1] == "-" * 60
    assert lines[1:5] == ["pack 0.1.0", "", f"{'ok':9}{'Model calls':17}the same function", f"{'problem':9}{'Picture':17}noise"]
    assert lines[-2] == "verdict: problems: Picture"
    assert block_text([], [Finding(OK, "Picture", "")]).splitlines()[-2] == "verdict: the model, the picture and the mouth are in order"


def test_environment_names_versions_and_hardware_but_nobody():
    lines = environment_lines(FACTS)
    assert lines[0].startswith(f"pack {pack_version()}, ComfyUI 0.30.0, Python 3.12.4, torch 2.11.0+cu130, ")
    assert lines[1] == "machine: NVIDIA GeForce RTX 4090, 24.0 GB, compute capability 8.9; dynamic VRAM; RAM 64 GB"
    assert "anna" not in "".join(lines)
    assert environment_lines(Facts(python="3.12.4"))[1] == "machine: ; RAM 0 GB"


def test_pack_version_is_that_of_the_project():
    assert pack_version().count(".") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /home/anna/models/a.safetensors: gone", "cannot read a.safetensors: gone"),
        (r"C:\Users\Anna B\x.pth is gone", "x.pth is gone"),
        (r"not D:\models\vae\b.pth", "not b.pth"),
        ("in models/vae/a.pth, 1.5e-06; 2/3; ours/theirs", "in models/vae/a.pth, 1.5e-06; 2/3; ours/theirs"),
        ('"/a/b/c" (/d/e)', '"c" (e)'),
    ],
)
def test_paths_lose_their_folders(text, shown):
    assert without_paths(text) == shown


def test_no_folder_is_in_the_block_however_its_lines_break():
    path = "/home/anna/" + "very long folder/" * 9 + "a.safetensors"
    text = block_text([], [Finding(PROBLEM, "Clip", f"failed: {path} is damaged", f"Look at {path}.")])
    assert "anna" not in text
    assert "folder" not in text
    assert text.count("a.safetensors") == 2

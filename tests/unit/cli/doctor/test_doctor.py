"""The doctor: what it says of given facts, and that its collectors survive whatever is missing."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import save_file
from wan_s2v_pack.cli import doctor
from wan_s2v_pack.cli.comfyui import transport
from wan_s2v_pack.cli.comfyui.machine import Machine
from wan_s2v_pack.cli.doctor import checks, facts, probe
from wan_s2v_pack.cli.doctor.checks import Facts, Gpu, Link, RuntimeFacts, ServerFacts, TorchFacts
from wan_s2v_pack.cli.doctor.finding import Finding
from wan_s2v_pack.cli.doctor.models import ModelFound
from wan_s2v_pack.cli.doctor.speed import speed_findings
from wan_s2v_pack.cli.models.folders import ModelFolders
from wan_s2v_pack.cli.models.headers import DOWNLOAD, GGUF, LEAVE, REPLACE
from wan_s2v_pack.tests.foreign_files import wan, wan_vae
from wan_s2v_pack.tests.systems import from_checkout

ROOT = Path(__file__).resolve().parents[4]
H100 = Gpu("NVIDIA H100", 80_000_000_000, (9, 0), "580.65")
TORCH = TorchFacts("2.11.0+cu130", "0.26.0+cu130", "2.11.0+cu130", gpus=(H100,), accelerator="cuda", kernels=("cuDNN", "flash"))
DIRECT, OVER_HOST = Link(True, True, 390e9), Link(False, True, 12e9)
MODELS = {
    "model": (ModelFound("wan2.2_s2v_14B_bf16.safetensors", 32_600_000_000, "bf16"),),
    "text": (ModelFound("umt5_xxl_fp16.safetensors", 11_400_000_000, "fp16"),),
    "audio": (ModelFound("wav2vec2_large_english_fp16.safetensors", 630_000_000, "fp16"),),
    "vae": (ModelFound("wan_2.1_vae.safetensors", 250_000_000, "bf16"),),
}
HEALTHY = Facts(
    python="3.12.4 (python)",
    comfyui="ComfyUI",
    comfyui_version="0.30.0",
    torch=TORCH,
    runtime=RuntimeFacts(pinned_bytes=115_000_000_000),
    ram_bytes=128_000_000_000,
    models=MODELS,
    free_bytes={"models": 500_000_000_000},
    pack_nodes=11,
)


BF16_MODEL = "wan2.2_s2v_14B_bf16.safetensors"
INDEX = "my_s2v/diffusion_pytorch_model.safetensors.index.json"
OTHER = ModelFound("a", 0, problem="it is a LoRA", advice=LEAVE)
GGUF_MODEL = ModelFound("s2v.gguf", 9_000_000_000, GGUF)


def damaged(name, advice=REPLACE):
    return ModelFound(name, 0, problem="it is cut off", advice=advice, mendable=True)


def with_torch(**changes):
    return replace(HEALTHY, torch=replace(TORCH, **changes))


def with_runtime(**changes):
    return replace(HEALTHY, runtime=replace(HEALTHY.runtime, **changes))


def with_device(kind):
    """No GPU that PyTorch calls CUDA."""
    runtime = RuntimeFacts(dynamic=False, device=kind, device_name="the device")
    return replace(with_torch(gpus=(), accelerator=kind), runtime=runtime)


def with_gpu(**changes):
    return with_torch(gpus=(replace(H100, **changes),))


def with_models(**changes):
    return replace(HEALTHY, models={**MODELS, **changes})


def with_server(**changes):
    return replace(HEALTHY, server=ServerFacts("http://here", version="0.30.0", python="3.12.4 (main)", **changes))


def test_healthy_machine():
    findings = checks.examine(HEALTHY)
    assert {finding.status for finding in findings} == {"ok"}
    texts = {finding.topic: finding.text for finding in findings}
    assert texts == {
        "ComfyUI": "0.30.0 in ComfyUI",
        "Python": "3.12.4 (python)",
        "PyTorch": "torch 2.11.0+cu130, torchvision 0.26.0+cu130, torchaudio 2.11.0+cu130",
        "GPU": "NVIDIA H100, 80.0 GB, compute capability 9.0, driver 580.65",
        "Memory mode": "dynamic VRAM",
        "RAM": "128 GB, up to 115 GB of it pinned",
        "Attention": "PyTorch, cuDNN first (of cuDNN, flash)",
        "Model": "wan2.2_s2v_14B_bf16.safetensors (bf16, 32.60 GB)",
        "Text encoder": "umt5_xxl_fp16.safetensors (fp16, 11.40 GB)",
        "Audio encoder": "wav2vec2_large_english_fp16.safetensors (fp16, 0.63 GB)",
        "VAE": "wan_2.1_vae.safetensors (bf16, 0.25 GB)",
        "Disk": "500 GB free in models",
        "This pack": "11 nodes load",
    }


@pytest.mark.parametrize(
    ("given", "status", "topic", "text", "advice"),
    [
        (replace(HEALTHY, comfyui=None), "problem", "ComfyUI", "not found", "--comfyui"),
        (replace(HEALTHY, comfyui_version="0.24.3"), "problem", "ComfyUI", "0.24.3", "Update it to 0.25"),
        (replace(HEALTHY, comfyui_version=""), "warning", "ComfyUI", "unknown version", "0.25"),
        (replace(HEALTHY, python="3.9.1 (python)"), "problem", "Python", "3.9.1", "3.10"),
        (with_server(error="no answer"), "problem", "Server", "no answer", "--server"),
        (with_server(has_pack=False), "problem", "Server", "no Wan S2V nodes", "custom_nodes"),
        (replace(with_server(), python="3.10.0 (python)"), "warning", "Server", "runs Python 3.12.4", "Python that runs ComfyUI"),
        (with_server(flags=("--highvram",)), "ok", "Server", "started with --highvram", ""),
        (replace(HEALTHY, torch=None, probe_error="it crashed"), "problem", "PyTorch", "it crashed", "Python that runs ComfyUI"),
        (with_torch(version="", errors={"torch": "No module"}), "problem", "PyTorch", "No module", "Python that runs ComfyUI"),
        (with_torch(errors={"torchaudio": "undefined symbol"}), "problem", "PyTorch", "torchaudio cannot be imported", "one CUDA version"),
        (with_torch(torchaudio="2.11.0+cu128"), "problem", "PyTorch", "different platforms (cu128, cu130)", "one CUDA version"),
        (with_torch(torchvision="0.25.0+cu130"), "problem", "PyTorch", "torch 2.11 needs torchvision 0.26", "one CUDA version"),
        (with_torch(torchaudio="2.10.0+cu130"), "problem", "PyTorch", "torch 2.11 needs torchaudio 2.11", "one CUDA version"),
        (with_device("cpu"), "warning", "GPU", "none that PyTorch can use", "nvidia-smi"),
        (replace(with_torch(gpus=(), accelerator=""), system="win32"), "warning", "GPU", "none that PyTorch can use", "portable build"),
        (replace(with_torch(gpus=(), accelerator=""), system="darwin"), "warning", "GPU", "none that PyTorch can use", "Apple silicon"),
        (with_device("mps"), "warning", "GPU", "Apple's GPU (the device)", "bf16 or GGUF"),
        (with_device("xpu"), "warning", "GPU", "Intel's GPU (the device)", "Nothing to do"),
        (with_device("privateuseone"), "warning", "GPU", "DirectML (the device)", "memory is not known"),
        (with_gpu(capability=(7, 5)), "warning", "GPU", "compute capability 7.5", "bfloat16"),
        (with_gpu(capability=None), "warning", "GPU", "not NVIDIA", "tested on NVIDIA"),
        (with_runtime(dynamic=False), "warning", "Memory mode", "for this device, system or flags", "--enable-dynamic-vram"),
        (with_torch(links=(DIRECT, replace(DIRECT, bytes_per_s=20e9))), "ok", "Several GPUs", "2 reach each other directly, 20 GB/s", ""),
        (with_torch(links=(DIRECT, OVER_HOST)), "ok", "Several GPUs", "through main memory, 12 GB/s; ComfyUI's MultiGPU CFG Split", ""),
        (with_torch(links=(DIRECT, replace(DIRECT, arrives=False))), "warning", "Several GPUs", "gets lost", "IOMMU"),
        (
            with_runtime(dynamic=False, why="No working comfy-aimdo"),
            "warning",
            "Memory mode",
            "off: No working comfy-aimdo",
            "Put that right",
        ),
        (replace(HEALTHY, ram_bytes=16_000_000_000), "warning", "RAM", "the model has 32.6 GB", "fp8"),
        (with_torch(broken={"xformers": "no kernel"}), "warning", "Attention", "xformers is installed but", "Uninstall"),
        (with_torch(packages=("sageattention",)), "ok", "Attention", "also installed: sageattention", ""),
        (with_gpu(capability=(8, 9)), "ok", "Attention", "PyTorch, flash first", ""),
        (with_torch(packages=("fa3_fwd_interface",)), "ok", "Attention", "in this pack FlashAttention 3 first", ""),
        (with_runtime(attention="attention_sage"), "ok", "Attention", "SageAttention (not exact)", ""),
        (with_runtime(attention="attention_sub_quad"), "warning", "Attention", "slow", "--use-pytorch-cross-attention"),
        (replace(HEALTHY, models=None, models_error="Give one."), "problem", "Models", "no models folder", "Give one."),
        (with_models(audio=()), "problem", "Missing", "Audio encoder (models/audio_encoders)", "python -m cli download --only audio "),
        (with_models(text=(), vae=()), "problem", "Missing", "VAE (models/vae)", "--only text,vae   (7.0 GB; --precision bf16: 11.7 GB)"),
        (
            with_models(vae=(damaged("a"),)),
            "problem",
            "VAE",
            "a cannot be used: it is cut off",
            "download --only vae   (with --precision bf16",
        ),
        (with_models(vae=(*MODELS["vae"], damaged("a"))), "warning", "VAE", "a cannot be used: it is cut off", "Delete it"),
        (with_models(vae=(damaged("Wan2.1_VAE.pth"),)), "problem", "VAE", "it is cut off", "download --set official --only vae"),
        (with_models(model=(damaged(BF16_MODEL),)), "problem", "Model", "it is cut off", "download --only model --precision bf16"),
        (
            with_models(model=(damaged(INDEX, DOWNLOAD),)),
            "problem",
            "Model",
            INDEX,
            "official --only model   (into the folder Wan2.2-S2V-14B)",
        ),
        (with_models(vae=(OTHER,)), "warning", "VAE", "a cannot be used: it is a LoRA", "Leave it"),
        (with_models(vae=(OTHER,)), "problem", "Missing", "VAE (models/vae)", "--only vae"),
        (
            with_models(model=(GGUF_MODEL,)),
            "warning",
            "Model",
            "s2v.gguf (GGUF, 9.00 GB)",
            "connect its MODEL to Sample Video (Wan S2V), or:",
        ),
        (with_models(model=(*MODELS["model"], GGUF_MODEL)), "ok", "Model", "s2v.gguf (GGUF, 9.00 GB)", ""),
        (with_models(lora=(ModelFound("a", 2_000_000, "bf16"),)), "ok", "LoRA", "a (bf16, 2.0 MB)", ""),
        (replace(HEALTHY, free_bytes={"output": 3_000_000_000}), "warning", "Disk", "3 GB free in output", "1.2 GB per minute"),
        (replace(HEALTHY, pack_nodes=None, probe_error="SyntaxError"), "problem", "This pack", "SyntaxError", "requirements.txt"),
    ],
)
def test_finding(given, status, topic, text, advice):
    matching = [finding for finding in checks.examine(given) if finding.topic == topic and text in finding.text]
    assert [(finding.status, advice in finding.advice) for finding in matching] == [(status, True)]


@pytest.mark.parametrize("model", [damaged("a"), damaged(INDEX, DOWNLOAD), GGUF_MODEL])
def test_what_can_be_mended_is_not_also_missing(model):
    assert [finding for finding in checks.examine(with_models(model=(model,))) if finding.topic == "Missing"] == []


def test_whatever_is_not_ok_comes_with_advice():
    nothing = Facts(python="3.9.0", comfyui_error="not here", probe_error="crash", models_error="Give it.", server=ServerFacts("u", "gone"))
    findings = checks.examine(nothing)
    assert [finding.topic for finding in findings] == ["ComfyUI", "Server", "Python", "PyTorch", "Models"]
    assert all(finding.advice for finding in findings if finding.status != "ok")


def test_report_is_one_readable_screen():
    text = doctor.report(checks.examine(with_models(audio=(), vae=())))
    assert max(map(len, text.splitlines())) <= 120
    assert "problem  Missing          Audio encoder (models/audio_encoders), VAE (models/vae)" in text
    assert f"{'':26}-> python -m cli download --only audio,vae   (0.9 GB; --precision bf16: 0.9 GB)" in text
    assert text.endswith("\n\n1 problem")
    assert doctor.report(checks.examine(HEALTHY)).endswith("everything is in order")


@pytest.mark.parametrize(("given", "status"), [(HEALTHY, 0), (with_runtime(dynamic=False), 0), (with_models(vae=()), 1)])
def test_json_and_exit_status(given, status, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "collect", lambda **_: given)
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    assert doctor.run(parser.parse_args(["doctor", "--json"])) == status
    assert [Finding(**finding) for finding in json.loads(capsys.readouterr().out)] == [*checks.examine(given), *speed_findings(given)]


# --- collectors


@pytest.fixture
def no_comfyui(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(facts, "find_comfyui", lambda given: None)
    monkeypatch.setattr(facts, "find_base", lambda given: None)


def write_probe(monkeypatch, tmp_path, text):
    path = tmp_path / "probe.py"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(facts, "PROBE", path)


@pytest.mark.parametrize(
    ("script", "error"),
    [("import os; os.abort()", "Python ended with status"), ("raise SystemError('bad build')", "SystemError: bad build")],
)
def test_a_crash_of_torch_is_a_finding(no_comfyui, monkeypatch, tmp_path, script, error):
    write_probe(monkeypatch, tmp_path, script)
    found = facts.collect(models_dir=tmp_path)
    assert found.torch is None
    assert error in found.probe_error
    assert [finding.status for finding in checks.examine(found) if finding.topic == "PyTorch"] == ["problem"]


def test_a_probe_that_is_stuck_is_a_finding(no_comfyui, monkeypatch, tmp_path):
    monkeypatch.setattr(facts, "PROBE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(facts, "LOOK_S", 0.1)
    write_probe(monkeypatch, tmp_path, "import time; time.sleep(600)")
    assert facts.collect(models_dir=tmp_path).probe_error == "no answer, and for 0.5 s nothing was computed"


def test_a_slow_probe_is_waited_for_as_long_as_it_computes(no_comfyui, monkeypatch, tmp_path):
    """On a busy machine, or a slow disk, ComfyUI takes minutes to start."""
    spent = itertools.count()
    monkeypatch.setattr(facts, "seconds_computed", lambda pid: next(spent))
    monkeypatch.setattr(facts, "PROBE_TIMEOUT_S", 0)
    monkeypatch.setattr(facts, "LOOK_S", 0.1)
    write_probe(monkeypatch, tmp_path, "import time; time.sleep(1); raise SystemError('it ended by itself')")
    assert facts.collect(models_dir=tmp_path).probe_error == "SystemError: it ended by itself"


def test_what_was_told_before_a_crash_counts(no_comfyui, monkeypatch, tmp_path):
    versions = {"versions": {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0", "errors": {}}}
    write_probe(monkeypatch, tmp_path, f"import os\nprint({probe.MARK + json.dumps(versions)!r}, flush=True)\nos.abort()")
    found = facts.collect(models_dir=tmp_path)
    assert found.torch == TorchFacts("2.11.0", "0.26.0", "2.11.0", system=sys.platform)


def test_a_folder_without_comfyui_is_a_finding(monkeypatch, tmp_path):
    write_probe(monkeypatch, tmp_path, "")
    found = facts.collect(comfyui=tmp_path)
    assert (found.comfyui, found.models) == (None, None)
    assert "There is no ComfyUI in" in found.comfyui_error


def test_server_that_does_not_answer_is_a_finding():
    server, arguments = facts.ask_server("http://127.0.0.1:9/")
    assert (server.url, arguments) == ("http://127.0.0.1:9", ())
    assert "no answer of a ComfyUI" in server.error


def test_password_in_the_address_is_not_shown():
    server, _ = facts.ask_server("http://me:secret@127.0.0.1:9/")
    assert server.url == "http://127.0.0.1:9"
    assert "secret" not in server.error


def test_flags_and_models_folder_of_a_server(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    arguments = ["--cpu", "--base-directory", str(tmp_path), "--port", "1", "--use-sage-attention"]
    system = {"argv": ["main.py", *arguments], "comfyui_version": "0.30.0", "python_version": "3.12.4 (main)"}
    system["ram_total"] = 64e9
    devices = [{"name": "cpu", "type": "cpu", "vram_total": 64e9}]
    answers = {"/system_stats": {"system": system, "devices": devices}, f"/object_info/{facts.NODE}": {facts.NODE: {}}}
    monkeypatch.setattr(transport.Transport, "get", lambda _transport, path: answers[path])
    server, given = facts.ask_server("http://here")
    assert server == ServerFacts(
        "http://here", "", "0.30.0", "3.12.4 (main)", ("--cpu", "--use-sage-attention"), True, Machine("cpu", 64e9, 64e9, True)
    )
    assert facts._models_dir_of(given) == tmp_path / "models"


@pytest.mark.parametrize("flag", ["--server", "--url"])
def test_server_behind_a_login_as_predict_has_it(flag, monkeypatch):
    """The doctor had no way to get through a proxy that `predict` gets through."""
    asked = []

    def get(http, path):
        asked.append((http.url, path, dict(http.headers)))
        return {"system": {}, facts.NODE: {}}

    monkeypatch.setattr(transport.Transport, "get", get)
    monkeypatch.setattr(facts, "_run_probe", lambda *_: ({}, "not here"))
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    doctor.run(parser.parse_args(["doctor", flag, "gpu.example.org:443", "--auth", "me:secret", "--header", "X-Token: abc"]))
    url, path, headers = asked[0]
    assert (url, path) == ("http://gpu.example.org:443", "/system_stats")
    assert headers == {"Authorization": "Basic bWU6c2VjcmV0", "X-Token": "abc"}


def write(path, shapes):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(tuple(shape)) for name, shape in shapes.items()}, path)


@pytest.mark.parametrize("place", ["loras/wan_2.1_vae.safetensors", "checkpoints/wan/Wan2_1_VAE.safetensors", "wan2.1_vae.safetensors"])
def test_file_in_the_wrong_folder(place, tmp_path):
    write(tmp_path / place, wan_vae())
    write(tmp_path / "diffusion_models" / "wan2.1_t2v.safetensors", wan())
    found = facts._models(ModelFolders(tmp_path, {}))
    assert found["vae"] == (ModelFound(place, 0, "", "its loader does not look into that folder", "Move it to models/vae.", True),)
    findings = [finding for finding in checks.examine(replace(HEALTHY, models=found)) if finding.topic in ("VAE", "Missing")]
    assert [finding.status for finding in findings] == ["problem", "problem"]
    assert "VAE" not in findings[1].text


def test_other_folders_do_not_matter_when_the_file_is_there(tmp_path):
    write(tmp_path / "vae" / "wan_2.1_vae.safetensors", wan_vae())
    write(tmp_path / "loras" / "wan_2.1_vae.safetensors", wan_vae())
    assert [model.name for model in facts._models(ModelFolders(tmp_path, {}))["vae"]] == ["wan_2.1_vae.safetensors"]


def test_file_that_the_system_does_not_give_out(tmp_path, monkeypatch):
    write(tmp_path / "vae" / "wan_2.1_vae.safetensors", wan_vae())
    monkeypatch.setattr(facts, "describe", Mock(side_effect=PermissionError(13, "Permission denied")))
    (model,) = facts._models(ModelFolders(tmp_path, {}))["vae"]
    assert (model.problem, model.advice) == ("it cannot be read: Permission denied", "Check the file and its disk.")


def test_doctor_starts_without_pytorch():
    """And with it every command."""
    script = "import sys; sys.modules.update(torch=None, safetensors=None, numpy=None); import cli.__main__"
    subprocess.run(from_checkout(script), cwd=ROOT, check=True, timeout=60)


def test_the_form_for_problems_asks_for_what_the_doctor_says():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text(encoding="utf-8"))
    field = next(item for item in form["body"] if item["id"] == "doctor")
    assert "python -m cli doctor" in field["attributes"]["description"]
    assert field["attributes"]["render"] == "text"  # no Markdown: the columns stay
    assert field["validations"]["required"]

"""Load LoRA (Wan S2V) on a real server: frames, report and refusals."""

from __future__ import annotations

import os
import re
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from wan_s2v_pack.cli.comfyui.client import PromptFailed
from wan_s2v_pack.scripts.tiny_models import loras as tiny_loras
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL

from .graphs import EXACT, add, inputs_of, patch_model, quick_start
from .graphs import TINY_LORA as LORA


@pytest.fixture(scope="session")
def loras(base_directory, server):
    """The folder for LoRAs, with another file since the server has started."""
    models = base_directory / "models"
    shutil.copyfile(models / DIFFUSION_MODEL, models / "loras" / "not_a_lora.safetensors")


def with_lora(strength, name=LORA):
    prompt = quick_start(**EXACT)
    node = patch_model(prompt, "WanS2VLoraLoader", lora_name=name, strength=strength)
    return prompt, node


def test_strengths_differ_and_leave_no_trace(loras, renderer):
    plain = renderer.render(quick_start(**EXACT)).luma
    strong, weak, none = (renderer.render(with_lora(strength)[0]).luma for strength in (0.8, 0.3, 0.0))
    assert not np.array_equal(strong, weak)
    assert not np.array_equal(weak, plain)
    assert np.array_equal(none, plain)


def test_comfyuis_loader_gives_the_same_frames(loras, renderer):
    prompt = quick_start(**EXACT)
    patch_model(prompt, "LoraLoaderModelOnly", lora_name=LORA, strength_model=0.8)
    assert np.array_equal(renderer.render(prompt).luma, renderer.render(with_lora(0.8)[0]).luma)


def test_report_comes_out_of_the_node_and_into_the_log(loras, renderer, server):
    prompt, node = with_lora(0.5)
    preview = add(prompt, "PreviewAny", source=[node, 1])
    (report,) = renderer.client.run(prompt)[preview]["text"]
    first = report.splitlines()[0]
    assert first.startswith(f"{LORA}: ")
    assert "low rank" in first
    assert f"LoRA {first}, strength 0.5" in server.log_text()


def test_alpha_of_the_metadata_is_used_and_reported(loras, renderer, base_directory):
    """Before, the report said "no alpha", and the frames were those of twice the strength."""
    models = base_directory / "models"
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(models / DIFFUSION_MODEL).items()}
    tiny_loras.write_lora("diffusers_metadata", shapes, models / "loras" / "noted.safetensors")
    tensors = load_file(models / "loras" / "noted.safetensors")
    save_file(tensors, models / "loras" / "unscaled.safetensors")
    prompt, node = with_lora(0.8, "noted.safetensors")
    preview = add(prompt, "PreviewAny", source=[node, 1])
    (report,) = renderer.client.run(prompt)[preview]["text"]
    assert re.search(r"alpha from the metadata of the file: strength 1 adds rank 4 times 0\.5 \(\d+ changes\)", report)
    assert "no alpha" not in report
    noted, half, whole = (renderer.render(with_lora(*lora)[0]).luma for lora in NOTED_AND_PLAIN)
    assert np.array_equal(noted, half)
    assert not np.array_equal(noted, whole)


NOTED_AND_PLAIN = ((0.8, "noted.safetensors"), (0.4, "unscaled.safetensors"), (0.8, "unscaled.safetensors"))


def test_a_checkpoint_is_refused(loras, renderer):
    with pytest.raises(PromptFailed, match=r"not_a_lora\.safetensors is not a LoRA: it looks like a Wan2\.2-S2V transformer"):
        renderer.client.run(with_lora(1.0, "not_a_lora.safetensors")[0])


def test_an_overwritten_file_of_the_same_name_and_size_is_noticed(loras, renderer, base_directory):
    """ComfyUI remembered the MODEL of the old file, and a named run went on with it."""
    path = base_directory / "models" / "loras" / "overwritten.safetensors"
    tensors = load_file(path.with_name(LORA))
    save_file(tensors, path)
    prompt, _ = with_lora(0.8, path.name)
    inputs_of(prompt, "WanS2VSampler")["run_name"] = "overwritten"
    renderer.render(prompt)
    facts = path.stat()
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    inputs_of(prompt, "WanS2VSampler")["if_changed"] = "stop"
    with pytest.raises(PromptFailed, match=r"(?s)made with other inputs:.*loras: 'overwritten.safetensors', with another content"):
        renderer.render(prompt)

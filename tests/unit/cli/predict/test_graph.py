"""The graph that `predict` queues: files, LoRAs, formats, pose, other inputs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from wan_s2v_pack.cli.models.files import FILES
from wan_s2v_pack.cli.predict import graph
from wan_s2v_pack.cli.predict.graph import DUB, FAST, FAST_LORA, LORA, POSE, PREPARE, SAMPLER, Lora, Request
from wan_s2v_pack.cli.predict.object_info import PackMissing, PromptError
from wan_s2v_pack.wan_s2v_model.sampling.schedule import PRESETS

ROOT = Path(__file__).resolve().parents[4]
REQUEST = Request(image=Path("me.png"), audio=Path("me.wav"))
USUAL = {part: inputs for part, inputs in graph.FILE_INPUTS.items() if part != "lora"}


def combo(*names):
    return ["COMBO", {"options": list(names)}]


@pytest.fixture
def server():
    """The server's description of the nodes, with the usual files and one LoRA."""
    prompt = graph.quick_start()
    info = {node["class_type"]: {"input": {"required": {}, "optional": {}}} for node in prompt.values()}
    for node_type, name in USUAL.values():
        info[node_type]["input"]["required"][name] = combo(graph.inputs_of(prompt, node_type)[name])
    info[LORA] = {"input": {"required": {"lora_name": combo(FAST_LORA, "style.safetensors")}}}
    info["WanS2VSaveVideo"]["input"]["required"]["format"] = combo("mp4 (h264)", "webm (vp9)", "mp4 (h265)", "mkv (ffv1, lossless)")
    size = [{"key": "480P", "inputs": {}}, {"key": "custom", "inputs": {"required": {"width": ["INT", {}]}}}]
    info[PREPARE]["input"]["required"] = {
        **{"size": ["COMFY_DYNAMICCOMBO_V3", {"options": size}], "max_clips": ["INT", {}], "encoded_audio": ["WAN_S2V_AUDIO", {}]}
    }
    info[DUB] = {"input": {"required": {"feather": ["INT", {}]}, "optional": {"source_video": ["VIDEO", {}]}}}
    info[POSE] = {"input": {"optional": {"video": ["VIDEO", {}]}}}
    info["WanS2VModelLoader"]["input"]["optional"] = {"offload": ["BOOLEAN", {}], "weight_dtype": [["default", "bf16"]]}
    info[SAMPLER]["input"]["required"] = {"cfg": ["FLOAT", {}], "run_name": ["STRING", {}]}
    return info


def build(server, **changes):
    return graph.build_prompt(replace(REQUEST, **changes), server, lambda path: f"uploaded {path}")


def offer(server, part, *names):
    node_type, name = graph.FILE_INPUTS[part]
    server[node_type]["input"]["required"][name] = combo(*names)


def test_without_options_it_is_the_quick_start_with_the_uploads(server):
    expected = graph.quick_start()
    graph.inputs_of(expected, "LoadImage")["image"] = "uploaded me.png"
    graph.inputs_of(expected, "LoadAudio")["audio"] = "uploaded me.wav"
    assert build(server) == expected


def test_fast_is_the_draft_of_the_templates():
    template = json.loads((ROOT / "docs" / "api" / "wan_s2v_all_nodes.json").read_text(encoding="utf-8"))
    assert PRESETS["draft"]._asdict() == FAST
    assert graph.inputs_of(template, LORA)["lora_name"] == FAST_LORA


def test_fast_gives_way_to_options(server):
    prompt = build(server, fast=True, inputs={SAMPLER: {"steps": 8}}, loras=[Lora("style.safetensors", 0.5)])
    sampler = graph.inputs_of(prompt, SAMPLER)
    assert (sampler["steps"], sampler["cfg"]) == (8, FAST["cfg"])
    assert [node["inputs"]["lora_name"] for node in prompt.values() if node["class_type"] == LORA] == ["style.safetensors"]


def test_loras_follow_each_other(server):
    prompt = build(server, loras=[Lora("style.safetensors", 0.5), Lora(FAST_LORA)])
    last = prompt[graph.inputs_of(prompt, SAMPLER)["model"][0]]["inputs"]
    first = prompt[last["model"][0]]["inputs"]
    assert (first["lora_name"], first["strength"], last["lora_name"], last["strength"]) == ("style.safetensors", 0.5, FAST_LORA, 1.0)
    assert prompt[first["model"][0]]["class_type"] == "WanS2VModelLoader"


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        (["a.safetensors", "wan2.2_s2v_14B_bf16.safetensors", "b_s2v.safetensors"], "wan2.2_s2v_14B_bf16.safetensors"),
        (["other.safetensors", "wan2.2_S2V_fp8.safetensors"], "wan2.2_S2V_fp8.safetensors"),
        (["z_s2v.safetensors", "b_s2v.safetensors", "wan_s2v_tiny.safetensors"], "b_s2v.safetensors"),
    ],
    ids=["usual", "looks right", "first of several, never random weights"],
)
def test_model_file_without_a_wish(available, chosen, server):
    offer(server, "model", *available)
    assert graph.inputs_of(build(server), "WanS2VModelLoader")["model_name"] == chosen


def test_model_file_with_a_wish(server):
    offer(server, "model", "wan2.2_s2v_14B_bf16.safetensors", "wan_s2v_tiny.safetensors")
    prompt = build(server, files={"model": "wan_s2v_tiny.safetensors"})
    assert graph.inputs_of(prompt, "WanS2VModelLoader")["model_name"] == "wan_s2v_tiny.safetensors"


def test_model_file_of_a_server_on_windows(server):
    offer(server, "audio", "wav2vec2-tiny\\model.safetensors", "mine\\wav2vec2.safetensors")
    name = graph.inputs_of(build(server, files={"audio": "wav2vec2-tiny/model.safetensors"}), "WanS2VAudioEncoderLoader")
    assert name["audio_encoder_name"] == "wav2vec2-tiny\\model.safetensors"
    offered = graph.inputs_of(build(server), "WanS2VAudioEncoderLoader")["audio_encoder_name"]
    assert offered == "mine\\wav2vec2.safetensors", "never random weights"


@pytest.mark.parametrize("part", USUAL)
def test_pattern_of_each_part_finds_every_published_file(part, server):
    for file in (file for files in FILES.values() for file in files if file.part == part):
        if not file.name.endswith((".json", ".model")) and "-0000" not in file.name:
            assert graph.choose_file(part, ["other.safetensors", file.name], None, usual="none") == file.name


def test_all_missing_files_are_listed_before_anything_is_uploaded(server):
    offer(server, "model", "flux.safetensors")
    offer(server, "vae")
    with pytest.raises(PromptError) as refused:
        graph.build_prompt(REQUEST, server, lambda path: pytest.fail(f"{path} was uploaded"))
    assert str(refused.value).splitlines() == [
        "model files are missing:",
        "  wan2.2_s2v_14B_bf16.safetensors  in  models/diffusion_models  (there: flux.safetensors)",
        "  wan_2.1_vae.safetensors  in  models/vae  (there: nothing)",
        "`python -m cli download --only model,vae` fetches the usual ones.",
    ]


def test_gpus_stand_behind_the_loras(server):
    server[graph.GPUS] = {"input": {"required": {"model": ["MODEL", {}], "max_gpus": ["INT", {}]}}}
    prompt = build(server, gpus=4, loras=[Lora("style.safetensors")])
    split = prompt[graph.inputs_of(prompt, SAMPLER)["model"][0]]
    assert (split["class_type"], split["inputs"]["max_gpus"]) == ("MultiGPU_WorkUnits", 4)
    assert prompt[split["inputs"]["model"][0]]["class_type"] == LORA


def test_gpus_stand_in_front_of_the_live_sampler_too(server):
    server[graph.GPUS] = {"input": {"required": {"model": ["MODEL", {}], "max_gpus": ["INT", {}]}}}
    server[graph.LIVE_SAMPLER] = {"input": {"required": {"plan": ["WAN_S2V_PLAN", {}]}}}
    offer(server, "lora", graph.LIVE_LORA)
    prompt = build(server, gpus=2, live=True)
    split = prompt[graph.inputs_of(prompt, graph.LIVE_SAMPLER)["model"][0]]
    assert (split["class_type"], split["inputs"]["max_gpus"]) == ("MultiGPU_WorkUnits", 2)
    assert prompt[split["inputs"]["model"][0]]["inputs"]["lora_name"] == graph.LIVE_LORA


def test_gpus_need_a_comfyui_that_knows_of_them(server):
    with pytest.raises(PackMissing, match=r"no node MultiGPU_WorkUnits\. Update ComfyUI"):
        build(server, gpus=2)


def test_missing_lora(server):
    offer(server, "lora", "style.safetensors")
    with pytest.raises(PromptError, match=rf"{FAST_LORA}  in  models/loras  \(there: style\.safetensors\)(.|\n)*--only lora"):
        build(server, fast=True)


def test_server_without_the_pack(server):
    del server[SAMPLER]
    with pytest.raises(PackMissing, match=r"no node WanS2VSampler\. Is this pack in its custom_nodes"):
        build(server)


def test_server_with_an_older_pack(server):
    del server[LORA], server[POSE]["input"]["optional"]["video"]
    with pytest.raises(PackMissing, match="no node WanS2VLoraLoader"):
        build(server, fast=True)
    with pytest.raises(PromptError, match="has no input video on this server"):
        build(server, pose=Path("dance.mp4"))


def test_pose_is_connected_as_a_video(server):
    prompt = build(server, pose=Path("dance.mp4"))
    pose = prompt[graph.inputs_of(prompt, PREPARE)["pose"][0]]
    loader = prompt[pose["inputs"]["video"][0]]
    assert pose["class_type"] == POSE
    assert (loader["class_type"], loader["inputs"]) == ("LoadVideo", {"file": "uploaded dance.mp4"})


def dub_of(prompt):
    """The inputs of Dub Video, and those of what is connected to them."""
    node = prompt[graph.inputs_of(prompt, PREPARE)["dub"][0]]
    assert node["class_type"] == DUB
    linked = {name: prompt[value[0]]["inputs"] for name, value in node["inputs"].items() if isinstance(value, list)}
    return node["inputs"], linked


def save_mask(path, mode, colour):
    Image.new(mode, (8, 8), colour).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "channel"),
    [("RGBA", (9, 9, 9, 0), "alpha"), ("RGBA", (255, 255, 255, 255), "red"), ("L", 255, "red"), ("P", 1, "red")],
)
def test_a_video_is_dubbed_with_a_picture_of_its_own(mode, colour, channel, server, tmp_path):
    mask = save_mask(tmp_path / "mask.png", mode, colour)
    prompt = build(server, image=None, video=Path("film.mp4"), video_mask=mask, changes=["WanS2VDub.feather=8"])
    inputs, linked = dub_of(prompt)
    assert linked == {
        "source_video": {"file": "uploaded film.mp4"},
        "source_mask": {"image": f"uploaded {mask}", "channel": channel},
    }
    assert (inputs["strength"], inputs["feather"]) == (1.0, 8)
    assert graph.inputs_of(prompt, PREPARE)["image"] == [graph.inputs_of(prompt, PREPARE)["dub"][0], 1]
    assert "LoadImage" not in [node["class_type"] for node in prompt.values()]


def test_a_video_without_a_mask_is_where_it_begins_and_a_picture_may_be_given(server):
    prompt = build(server, video=Path("film.mp4"))
    inputs, linked = dub_of(prompt)
    assert (list(linked), inputs["strength"]) == (["source_video"], 0.6)
    assert graph.inputs_of(prompt, "LoadImage")["image"] == "uploaded me.png"


def test_a_mask_that_is_no_picture_and_a_server_without_dubbing(server, tmp_path):
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(PromptError, match=r"mask.png is no picture"):
        build(server, video=Path("film.mp4"), video_mask=tmp_path / "mask.png")
    del server[DUB]
    with pytest.raises(PackMissing, match=DUB):
        build(server, video=Path("film.mp4"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_mask_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mask.png")
    with pytest.raises(PromptError, match=r"mask\.png is no picture that can be read \(.*it is no plain file"):
        graph.mask_channel(tmp_path / "mask.png")


def test_defaults_of_the_dub_are_those_of_the_node():
    schemas = json.loads((ROOT / "tests" / "integration" / "schemas.json").read_text(encoding="utf-8"))
    assert {widget["name"]: widget["default"] for widget in schemas[DUB]["required"]} == graph.DUB_DEFAULTS


def test_a_mask_without_a_video_is_refused(server):
    with pytest.raises(PromptError, match="--video-mask says what of --video may change"):
        build(server, video_mask=Path("mask.png"))


@pytest.mark.parametrize(
    ("suffix", "chosen", "expected"),
    [
        ("mp4", "mp4 (h264)", "mp4 (h264)"),
        ("webm", "mp4 (h264)", "webm (vp9)"),
        ("mkv", "mp4 (h264)", "mkv (ffv1, lossless)"),
        ("mp4", "mp4 (h265)", "mp4 (h265)"),
    ],
)
def test_suffix_decides_the_format(suffix, chosen, expected, server):
    prompt = build(server, suffix=suffix, changes=[f"WanS2VSaveVideo.format={chosen}"])
    assert graph.inputs_of(prompt, "WanS2VSaveVideo")["format"] == expected


def test_suffix_that_cannot_be_written(server):
    with pytest.raises(PromptError, match=r"as \.mp4, \.webm, \.mkv, not as \.avi\. Give --output"):
        build(server, suffix="avi")


@pytest.mark.parametrize(
    ("change", "node", "value"),
    [
        ("WanS2VPrepare.max_clips=3", PREPARE, 3),
        ("WanS2VPrepare.size=custom", PREPARE, "custom"),
        ("WanS2VPrepare.size.width=640", PREPARE, 640),
        ("WanS2VModelLoader.offload=False", "WanS2VModelLoader", False),
        ("WanS2VModelLoader.weight_dtype=bf16", "WanS2VModelLoader", "bf16"),
        ("WanS2VSampler.cfg=2", SAMPLER, 2.0),
        ("WanS2VSampler.run_name=a=b", SAMPLER, "a=b"),
    ],
)
def test_other_inputs_get_the_type_of_the_server(change, node, value, server):
    name = change.partition(".")[2].partition("=")[0]
    found = graph.inputs_of(build(server, changes=[change]), node)[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("KSampler.seed=1", "there is no node KSampler in the graph; it has .*WanS2VSampler"),
        ("WanS2VPrepare.sise=480P", "WanS2VPrepare has no input sise on this server; it has size, size.width, max_clips"),
        ("WanS2VPrepare.max_clips=many", r"max_clips must be a number \(INT\), got 'many'"),
        ("WanS2VModelLoader.offload=1", "offload is true or false"),
        ("WanS2VPrepare.encoded_audio=x", "audio is a connection of type WAN_S2V_AUDIO, which cannot be set"),
    ],
)
def test_other_inputs_that_do_not_fit(change, message, server):
    with pytest.raises(PromptError, match=message):
        build(server, changes=[change])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {SAMPLER: {"steps": 0}}}, "WanS2VSampler.steps must be a number from 1 to 1000; got 0."),
        ({"inputs": {SAMPLER: {"cfg": float("nan")}}}, "WanS2VSampler.cfg must be a number from -inf to inf; got nan."),
        ({"changes": [f"{PREPARE}.size=900P"]}, "WanS2VPrepare.size must be one of 480P, custom; got 900P."),
    ],
)
def test_values_that_a_node_does_not_take_are_said_before_anything_is_uploaded(server, changes, message):
    """A dry run reckons with them, too: it divided by no steps."""
    server[SAMPLER]["input"]["required"]["steps"] = ["INT", {"min": 1, "max": 1000}]
    with pytest.raises(PromptError, match=f"^{re.escape(message)}$"):
        graph.build_prompt(replace(REQUEST, **changes), server, pytest.fail)

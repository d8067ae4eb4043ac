"""`predict --dry-run`: what would be made, on what, and how long it takes, before anything is uploaded."""

from __future__ import annotations

import json
import struct
import wave
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image
from wan_s2v_pack.cli.predict import connection, dry_run, graph, job
from wan_s2v_pack.cli.predict.graph import PREPARE, SAMPLER, Request
from wan_s2v_pack.cli.predict.object_info import PromptError
from wan_s2v_pack.cli.predict.options import SOUND
from wan_s2v_pack.cli.predict.speakers import Speaker
from wan_s2v_pack.wan_s2v_model.cost.cards import measured_rates

from .test_predict import outcome, parse, predict

FP8, BF16, OWN = "wan2.2_s2v_14B_fp8_scaled.safetensors", "wan2.2_s2v_14B_bf16.safetensors", "my_s2v_merge.safetensors"
RTX_3060 = {"name": "cuda:0 NVIDIA GeForce RTX 3060 : cudaMallocAsync", "type": "cuda", "vram_total": 12.6e9}
CPU = {"name": "cpu", "type": "cpu", "vram_total": 16e9}

BOX = "50%,0,50%,100%"


class Server:
    """A ComfyUI with the usual files; whatever would change something there is missing."""

    url = "http://127.0.0.1:1"

    def __init__(self, model=FP8, device=RTX_3060, ram=32e9):
        self.model, self.device, self.ram = model, device, ram

    def object_info(self):
        prompt = graph.quick_start()
        info = {node["class_type"]: {"input": {"required": {}, "optional": {}}} for node in prompt.values()}
        for part, (node_type, name) in graph.FILE_INPUTS.items():
            if part != "lora":
                file = self.model if part == "model" else graph.inputs_of(prompt, node_type)[name]
                info[node_type]["input"]["required"][name] = ["COMBO", {"options": [file]}]
        info[graph.LORA] = {"input": {"required": {"lora_name": ["COMBO", {"options": [graph.FAST_LORA]}]}}}
        info["WanS2VSaveVideo"]["input"]["required"]["format"] = ["COMBO", {"options": ["mp4 (h264)"]}]
        return info

    def system_stats(self):
        return {"system": {"ram_total": self.ram}, "devices": [self.device]}


@pytest.fixture
def request_of(tmp_path):
    """What is asked for: a sound of some seconds, and a picture."""

    def make(seconds=29.8, size=(1200, 800), **changes):
        with wave.open(str(tmp_path / "me.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(2 * round(seconds * 8000)))
        Image.new("RGB", size).save(tmp_path / "me.png")
        return Request(image=tmp_path / "me.png", audio=tmp_path / "me.wav", **changes)

    return make


def test_half_a_minute_on_a_small_card(request_of):
    outlook = dry_run.look_ahead(Server(), request_of(fast=True))
    assert outlook.lines()[:3] == [
        "video: 29.81 s, 477 frames of 768x512 in 6 clips",
        "work: 4 steps of 1 model call for each clip",
        "machine: NVIDIA GeForce RTX 3060, 13 GB, 32 GB of RAM",
    ]
    assert 20 * 60 < outlook.seconds < 60 * 60
    assert "time: about " in outlook.lines()[-1]


def test_the_longest_of_several_speakers_decides_the_length(request_of, tmp_path):
    request = request_of(10)
    (tmp_path / "short.wav").write_bytes((tmp_path / "me.wav").read_bytes())
    request_of(4)
    speakers = Speaker(tmp_path / "me.wav", BOX), Speaker(tmp_path / "short.wav", BOX), Speaker(None, BOX)
    server = Server()
    info = server.object_info() | {graph.SPEAKERS: {"input": {"required": {"turns": ["STRING", {"default": ""}]}}}}
    server.object_info = lambda: info
    several = replace(request, speakers=speakers)
    assert dry_run.look_ahead(server, several).job.timeline.seconds == 10
    assert dry_run.look_ahead(server, replace(several, played=tmp_path / "me.wav")).job.timeline.seconds == 4


def test_reference_takes_as_much_longer_as_it_has_model_calls(request_of):
    fast, slow = (dry_run.look_ahead(Server(), request_of(fast=fast)) for fast in (True, False))
    assert (slow.job.steps, slow.job.model_calls) == (40, 2)
    assert 10 < slow.seconds / fast.seconds < 20


@pytest.mark.parametrize(
    ("inputs", "frames", "clips"),
    [
        ({"WanS2VAudioEncode": {"start": 20.0, "duration": 5.0}}, 80, 2),
        ({"WanS2VAudioEncode": {"start": 28.8, "duration": 5.0}}, 16, 1),
        ({PREPARE: {"max_clips": 2}}, 157, 2),
        ({PREPARE: {"frames_per_clip": 48}}, 477, 10),
    ],
)
def test_options_decide_the_clips(inputs, frames, clips, request_of):
    timeline = dry_run.look_ahead(Server(), request_of(inputs=inputs)).job.timeline
    assert (timeline.num_frames, timeline.num_clips) == (frames, clips)


def test_without_guidance_a_step_is_one_call(request_of):
    assert dry_run.look_ahead(Server(), request_of(inputs={SAMPLER: {"cfg": 1.0}})).job.model_calls == 1


@pytest.fixture
def job_with(request_of):
    """The job of a graph with further nodes at the sampler."""

    def make(sampler=MappingProxyType({}), **nodes):
        prompt, request = graph.quick_start(), request_of()
        for name, (node_type, inputs) in nodes.items():
            graph.inputs_of(prompt, SAMPLER)[name] = [graph.add_node(prompt, node_type, node_type, inputs), 0]
        graph.inputs_of(prompt, SAMPLER).update({"steps": 40, "cfg": 4.5, **sampler})
        return dry_run.job_of(prompt, request)

    return make


def sampling_options(start, end, warmup=19):
    return "WanS2VSamplingOptions", {"cfg_start_percent": start, "cfg_end_percent": end, "vae_warmup": warmup}


def audio_guidance(cfg, start=0.0, end=1.0):
    return "WanS2VAudioGuidance", {"audio_cfg": cfg, "start_percent": start, "end_percent": end, "audio_strength": 1.0}


@pytest.mark.parametrize(("start", "end", "calls"), [(0.0, 1.0, 2.0), (0.0, 0.5, 1.5), (0.25, 0.5, 1.25), (0.0, 0.0, 1.0)])
def test_guidance_on_a_part_of_the_steps_counts_in_part(start, end, calls, job_with):
    """It counted for all steps, so that the time of half the guidance was that of all of it."""
    job = job_with(options=sampling_options(start, end))
    assert (job.steps, job.model_calls, job.conditionings) == (40, calls, 2 if calls > 1 else 1)
    assert job_with({"cfg": 1.0}, options=sampling_options(start, end)).model_calls == 1


def test_guidance_by_the_sound_alone_takes_calls_of_its_own(job_with):
    assert job_with(audio_guidance=audio_guidance(4.5)).model_calls == 2
    assert job_with(audio_guidance=audio_guidance(6.0)).model_calls == 3
    assert job_with(audio_guidance=audio_guidance(6.0, end=0.5), options=sampling_options(0.0, 0.5)).model_calls == 2


def test_a_shorter_warmup_of_the_decoder_counts(job_with):
    assert job_with(options=sampling_options(0.0, 1.0, warmup=4)).vae_warmup == 4


def test_unknown_card_gets_no_time(request_of):
    device = {**RTX_3060, "name": "AMD Radeon RX 7900 XTX"}
    outlook = dry_run.look_ahead(Server(device=device), request_of())
    assert outlook.seconds is None
    assert outlook.lines()[-1] == "time: not known for this device; Prepare Video measures it"


def test_card_of_this_machine_is_measured(request_of, monkeypatch):
    monkeypatch.setattr(dry_run, "measured_here", lambda machine, modes: measured_rates(machine.device, 50e12, modes))
    server = Server(device={**RTX_3060, "name": "NVIDIA GeForce RTX 3080 Laptop GPU"})
    assert dry_run.look_ahead(server, request_of(), is_here=True).seconds > 3600
    assert dry_run.look_ahead(server, request_of()).seconds is None


def test_too_little_memory_is_refused_in_the_words_of_the_sampler(request_of):
    with pytest.raises(PromptError, match=r"at least .* of GPU memory on .* but only 2.0 GB can be had. What helps, best first: "):
        dry_run.look_ahead(Server(device={**RTX_3060, "vram_total": 2e9}), request_of())
    with pytest.raises(PromptError, match="main memory"):
        dry_run.look_ahead(Server(BF16, CPU, ram=16e9), request_of())


def test_file_of_unknown_size_is_never_refused(request_of):
    assert dry_run.look_ahead(Server(OWN.replace("my", "my_tiny"), CPU, ram=16e9), request_of()).model.weights_bytes == 32.6e9


def test_missing_files_are_told_as_in_a_run(request_of):
    with pytest.raises(PromptError, match="model files are missing"):
        dry_run.look_ahead(Server("flux.safetensors"), request_of())


def test_sound_that_ends_before_its_start(request_of):
    with pytest.raises(PromptError, match=r"me\.wav ends before 40 s"):
        dry_run.look_ahead(Server(), request_of(inputs={"WanS2VAudioEncode": {"start": 40.0}}))


def test_picture_that_is_none(request_of):
    request = request_of()
    with pytest.raises(PromptError, match=r"me\.wav is no picture"):
        dry_run.look_ahead(Server(), replace(request, image=request.audio))


def test_a_dub_has_the_shape_of_its_video(request_of):
    request = replace(request_of(), image=None, video=Path(__file__).resolve().parents[4] / "samples" / "sample_film.mp4")
    server = Server()
    info = {**server.object_info(), "WanS2VDub": {"input": {"optional": {"source_video": ["VIDEO", {}]}}}}
    server.object_info = lambda: info
    job = dry_run.look_ahead(server, request).job
    assert (job.height, job.width) == (384, 384)
    with pytest.raises(PromptError, match=r"me\.wav: The file has no picture"):
        dry_run.look_ahead(server, replace(request, video=request.audio))


# --- the command


@pytest.fixture
def on_server(monkeypatch, tmp_path):
    @contextmanager
    def connect(_options, _say):
        yield Server()

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.setattr(job, "make_video", lambda *_: pytest.fail("it ran"))
    monkeypatch.chdir(tmp_path)


def test_command_says_it_as_json(on_server, capsys, request_of):
    request = request_of(10)
    code, printed, _ = outcome(capsys, "--dry-run", "--audio", str(request.audio), "--size", "832x480")
    assert (code, printed["status"], printed["clips"], printed["width"], printed["height"]) == (0, "planned", 3, 832, 480)
    assert printed["calculated_seconds"] > 0
    assert "lines" not in printed


def test_command_says_it_in_words(on_server, capsys):
    assert predict.run(parse("--dry-run")) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("Nothing was uploaded, and nothing ran.\n")
    assert json.dumps(shown).count("time: about ") == 1


def test_samples_are_there():
    assert dry_run.seconds_of(SOUND) > 1


def test_a_picture_of_ten_billion_pixels(tmp_path):
    """Pillow's own refusal is no OSError."""
    size = struct.pack(">II", 100_000, 100_000) + bytes([8, 2, 0, 0, 0])
    header = b"IHDR" + size
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    picture = tmp_path / "face.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end)
    with pytest.raises(PromptError, match=r"face\.png is no picture that can be read"):
        dry_run.sides_of_picture(picture)


@pytest.mark.parametrize(("seconds", "duration"), [(0, 0.0), (0.04, 0.0), (3, 0.01)])
def test_a_sound_that_the_node_finds_too_short(request_of, seconds, duration):
    asked = request_of(seconds, inputs={graph.AUDIO_ENCODE: {"duration": duration}})
    with pytest.raises(PromptError, match=r"The selected sound lasts 0\.0.* s in me\.wav, and at least 0\.05 s is needed"):
        dry_run.look_ahead(Server(), asked)

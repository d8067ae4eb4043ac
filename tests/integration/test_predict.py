"""The command `predict` against the session's server and with a server of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import wave

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from wan_s2v_pack.cli.comfyui.client import ComfyClient
from wan_s2v_pack.cli.predict.graph import FAST, SAMPLER
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader

from .commands import FPS, SECONDS, Workplace, make_workplace
from .graphs import ROOT, SIZE, TINY_LORA, find
from .rendering import open_video

LONG = ("--steps", "40", "--duration", "2.5")  # three clips, long enough to be stopped in the second
ENDLESS = ("--steps", "1000")
DEADLINE_S = 120
SAMPLES = ROOT / "samples"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, comfyui_path, base_directory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("predict"), comfyui_path, base_directory / "models")


@pytest.fixture
def predict(workplace, server):
    """Run the command on the session's server; return its exit status, its JSON and what it said."""

    def run(*arguments: str, **options) -> tuple[int, dict, str]:
        done = workplace.run("--server", server.url, "--json", *arguments, **options)
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


@pytest.fixture
def start(workplace):
    """Start the command; what still runs when the test ends is killed with its children."""
    started: list[subprocess.Popen[str]] = []

    def start_command(*arguments: str) -> subprocess.Popen[str]:
        started.append(workplace.start(*arguments))
        return started[-1]

    yield start_command
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.communicate()


def lines_of(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """What the command says until a line fits."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"it never said {pattern}: {lines}")


def wait_until(true) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_video(path, seconds=SECONDS, size=(SIZE, SIZE)):
    video = open_video(path)
    assert (video.num_frames, video.size) == (round(seconds * FPS), size)
    return video


# --- the video


def test_the_samples_are_the_default(predict, workplace, server):
    ComfyClient(server.url).free()  # what another test has sampled would not be sampled again
    code, outcome, said = predict()
    assert (code, outcome["status"]) == (0, "done")
    video = check_video(workplace.folder / "outputs" / "output.mp4")
    assert outcome["video"] == str(video.path)
    assert outcome["bytes"] == video.path.stat().st_size
    prompt = video.stored_json("prompt")
    assert prompt[find(prompt, "LoadImage")]["inputs"]["image"].startswith("sample_portrait")
    assert re.search(r"^clip 1 of 1, step 0/2 \[-+\] 0 %", said, re.MULTILINE)


def test_dry_run_says_what_a_run_makes_and_leaves_nothing(predict, workplace, server):
    before = sorted(path.name for path in server.input_directory.iterdir())
    shutil.copy(workplace.folder / "me.wav", workplace.folder / "dry.wav")  # a name that no other test has uploaded
    code, outcome, _ = predict("--dry-run", "--audio", "dry.wav", "--output", "dry/talk.mp4")
    assert (code, outcome["status"], outcome["frames"]) == (0, "planned", round(SECONDS * FPS))
    assert (outcome["width"], outcome["height"]) == (SIZE, SIZE)
    assert outcome["calculated_seconds"] is None  # of a CPU
    assert sorted(path.name for path in server.input_directory.iterdir()) == before
    assert not (workplace.folder / "dry" / "talk.mp4").exists()


def test_options_reach_the_graph_and_the_file_is_the_servers(predict, workplace, server):
    code, outcome, _ = predict(
        *("--image", "me.png", "--audio", "me.wav", "--output", "deep/er/talk.mp4", "--prompt", "A man sings.", "--negative", "blurred"),
        *("--steps", "3", "--guidance", "2.5", "--frames", "12", "--seed", "7", "--size", "128x64", "--no-offload"),
        *(
            "--duration",
            "1",
            "--lora",
            f"{TINY_LORA}:0.5",
            "--set",
            "WanS2VPrepare.sync_mode=official",
            "--set",
            "WanS2VSaveVideo.format=mp4 (h265)",
        ),
    )
    assert code == 0, outcome
    video = check_video(workplace.folder / "deep" / "er" / "talk.mp4", seconds=1, size=(128, SIZE))
    assert (outcome["seed"], video.video_codec) == (7, "hevc")
    assert video.path.read_bytes() == (server.output_directory / outcome["server_file"]).read_bytes()
    inputs = {name: value for node in video.stored_json("prompt").values() for name, value in node["inputs"].items()}
    expected = {
        **{"prompt": "A man sings.", "negative_prompt": "blurred", "steps": 3, "cfg": 2.5, "frames_per_clip": 12, "seed": 7},
        **{"size.width": 128, "size.height": 64, "size": "custom", "offload": False, "sync_mode": "official", "strength": 0.5},
    }
    assert {name: inputs[name] for name in expected} == expected


def test_fast(predict, workplace):
    code, outcome, said = predict("--fast", "--lora", TINY_LORA, "--output", "fast.mp4")
    assert code == 0, outcome
    sampler = next(
        node for node in check_video(workplace.folder / "fast.mp4").stored_json("prompt").values() if node["class_type"] == SAMPLER
    )
    assert {name: sampler["inputs"][name] for name in FAST} == FAST
    assert "step 0/4" in said


def test_pose_video_at_its_own_rate(predict, workplace):
    assert predict("--output", "pose.mp4")[0] == 0
    code, outcome, _ = predict("--pose", "pose.mp4", "--output", "posed.mp4")
    assert code == 0, outcome
    plain, posed = (check_video(workplace.folder / name) for name in ("pose.mp4", "posed.mp4"))
    assert (plain.luma != posed.luma).any(), "the pose has no effect"


def test_two_speakers_and_one_who_listens(predict, workplace):
    for name, columns in (("left.png", slice(None, 20)), ("middle.png", slice(22, 40))):
        mask = np.zeros((512, 512), np.uint8)  # the size of the sample picture
        mask[:, 10 * columns.start if columns.start else 0 : 10 * columns.stop] = 255
        Image.fromarray(mask).save(workplace.folder / name)
    sound = ROOT / "samples" / "sample_speech.wav"
    places = ("--speaker", f"{sound}:left.png", "--speaker", f"{sound}:80%,0,20%,100%", "--speaker", ":middle.png")
    code, outcome, _ = predict(*places, "--set", "WanS2VSpeakers.turns=0:00 1", "--output", "talk.mp4")
    assert code == 0, outcome
    prompt = check_video(workplace.folder / "talk.mp4").stored_json("prompt")
    speakers = prompt[find(prompt, "WanS2VSpeakers")]["inputs"]
    assert (speakers["turns"], speakers["box_2"]) == ("0:00 1", "80% 0 20% 100%")
    assert {"encoded_audio_1", "encoded_audio_2", "mask_1", "mask_3"} <= speakers.keys() - {"encoded_audio_3"}
    code, outcome, _ = predict("--speaker", f"{sound}:80%,0,20%,100%", "--speaker", f"{sound}:0,0,90%,100%")
    assert (code, outcome["node_type"]) == (1, "WanS2VPrepare")
    assert "The regions of speakers 1 and 2 overlap" in outcome["error"]


def test_a_video_is_dubbed_and_keeps_its_bits_outside_of_the_mask(predict, workplace):
    film, mask = SAMPLES / "sample_film.mp4", SAMPLES / "sample_film_mask.png"
    code, outcome, said = predict("--video", str(film), "--video-mask", str(mask), "--output", "dubbed.mkv")
    assert code == 0, (outcome, said)
    with VideoReader(str(film)) as source, VideoReader(str(workplace.folder / "dubbed.mkv")) as dubbed:
        numbers = range(len(dubbed.times))
        before, after = source.read_levels(numbers), dubbed.read_levels(numbers)
    outside = torch.from_numpy(np.array(Image.open(mask).getchannel("A"))) == 255
    assert len(numbers) == round(SECONDS * 24)
    assert torch.equal(after[:, outside], before[:, outside])
    assert (after[:, ~outside] != before[:, ~outside]).any(dim=-1).float().mean() > 0.5


def test_same_command_again_gives_the_same_file(predict, workplace):
    first, again = (predict("--seed", "8", "--output", f"same{index}.mp4") for index in range(2))
    assert (first[0], again[0]) == (0, 0)
    assert first[1]["server_file"] == again[1]["server_file"], "the server remembers it"
    assert (workplace.folder / "same0.mp4").read_bytes() == (workplace.folder / "same1.mp4").read_bytes()


def test_sound_that_load_audio_does_not_read_is_converted(predict, workplace):
    """The job failed with "Unsupported wav dtype: torch.uint8"."""
    with wave.open(str(workplace.folder / "me.wav")) as source, wave.open(str(workplace.folder / "8 bit.wav"), "wb") as target:
        target.setparams((source.getnchannels(), 1, source.getframerate(), 0, "NONE", ""))
        target.writeframes(bytes((high + 128) % 256 for high in source.readframes(source.getnframes())[1::2]))
    code, outcome, said = predict("--audio", "8 bit.wav", "--output", "8 bit.mp4")
    assert code == 0, outcome
    assert "8 bit.wav: ComfyUI reads no samples of the type u8, so a FLAC of it is uploaded" in said
    check_video(workplace.folder / "8 bit.mp4")


def test_upload_leaves_another_file_of_that_name_alone(predict, workplace, server):
    theirs = server.input_directory / "me.png"
    theirs.write_bytes(b"another picture")
    try:
        assert predict("--image", "me.png", "--output", "mine.mp4")[0] == 0
        assert theirs.read_bytes() == b"another picture"
    finally:
        theirs.unlink()


# --- no video


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--model", "none.safetensors"],
            4,
            r"model files are missing:\n  none\.safetensors  in  models/diffusion_models  \(there: .*tiny",
        ),
        (["--steps", "0"], 4, r"WanS2VSampler\.steps must be a number from 1 to 1000; got 0\."),
        (["--set", "WanS2VSampler.solver=none"], 4, r"WanS2VSampler \(node 11\): Value not in list"),
        (["--set", "WanS2VSampler.nothing=1"], 4, "WanS2VSampler has no input nothing on this server"),
        (["--output", "talk.avi"], 4, r"not as \.avi"),
        (["--start", "1000"], 1, r"WanS2VAudioEncode \(node 8\): .*lies behind the end"),
        (["--image", "me.wav"], 4, r"me\.wav is no picture that can be read\. Convert"),
        (["--server", "http://127.0.0.1:9"], 3, "ComfyUI does not answer at http://127.0.0.1:9"),
    ],
    ids=["file", "number", "choice", "input", "format", "sound", "picture", "server"],
)
def test_exit_codes(arguments, code, message, predict):
    found, outcome, said = predict(*arguments)
    assert found == code, outcome
    assert re.search(message, outcome["error"])
    assert outcome["error"] in said


def test_sound_that_is_too_large_for_the_server(predict, workplace):
    with wave.open(str(workplace.folder / "long.wav"), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(101 * 2**20))
    code, outcome, _ = predict("--audio", "long.wav")
    assert code == 4
    assert outcome["error"].startswith("long.wav has 101 MB, but the server takes at most 100 MB.")


# --- cancelling


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_the_job_and_the_same_command_continues(by, start, workplace, server, client):
    name = f"stopped by {by.name}"
    arguments = ("--server", server.url, "--run-name", name, *LONG, "--output", f"{by.name}.mp4")
    process = start(*arguments)
    lines_of(process, r"^clip 2 of 3")
    process.send_signal(by)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, said
    assert f"Finished clips of {name} are kept; the same command continues there." in said
    assert client.queue_state() == ([], [])
    done = workplace.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "clip 1 of 3" not in done.stderr
    check_video(workplace.folder / f"{by.name}.mp4", seconds=2.5)


def test_cancelled_by_somebody_else(start, server, client):
    process = start("--server", server.url, *ENDLESS, "--seed", "21")
    lines_of(process, r"^clip 1 of 1")
    (running,), _ = client.queue_state()
    client.interrupt(running)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 5, said


def test_waiting_in_the_queue_and_cancelled_there(start, server, client):
    first = start("--server", server.url, *ENDLESS, "--seed", "22")
    lines_of(first, r"^clip 1 of 1")
    second = start("--server", server.url, "--seed", "23")
    lines_of(second, r"^waiting in the queue, 1 job before$")
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 130
    running, waiting = client.queue_state()
    assert (len(running), waiting) == (1, []), "only the own job may be cancelled"
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=DEADLINE_S)
    wait_until(lambda: client.queue_state() == ([], []))


# --- a server of its own


def test_own_server_ends_with_the_command_and_leaves_nothing(start, workplace):
    process = start(*ENDLESS)
    lines_of(process, r"^clip 1 of 1")
    (server,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, said
    assert not server.is_running()
    assert list((workplace.comfyui / "output").iterdir()) == []


def test_own_server_that_dies(start, workplace):
    process = start("--json", *ENDLESS)
    lines_of(process, r"^clip 1 of 1")
    psutil.Process(process.pid).children()[0].kill()
    printed, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3, said
    assert json.loads(printed)["error"].startswith("ComfyUI ended before the video was made. The last lines of its log:\n")
    assert list((workplace.comfyui / "output").iterdir()) == []

"""The nodes around the sampler: a cancel in their middle ends them at once and leaves nothing behind; out of memory they try again."""

from pathlib import Path

import pytest
import torch
from wan_s2v_pack.tests.golden.cases_audio import find_wav2vec_folders, weights_file
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_cancel import Button, counted
from wan_s2v_pack.tests.golden.test_out_of_memory import OUT_OF_MEMORY, PASSES, warnings

pytestmark = pytest.mark.comfy

SIDE = 64  # px
NUM_FRAMES = 40
RATE_HZ = 16_000
SIZE = {"size": {"size": "custom", "width": SIDE, "height": SIDE}, "frames_per_clip": 16, "max_clips": 0}
STILL_ALLOWED = 8  # frames


@pytest.fixture(autouse=True)
def _inference(bridge):
    with torch.inference_mode():
        yield


@pytest.fixture
def output(bridge, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "output"


@pytest.fixture
def clips(bridge, vae, tmp_path):
    """The finished clips of a run whose frames are noise."""
    num_samples = NUM_FRAMES * RATE_HZ // 16
    timeline = pack_module("wan_s2v_model.conditioning.timeline").plan_timeline(num_samples, RATE_HZ, num_samples, frames_per_clip=16)
    plan = pack_module("wan_s2v_model.conditioning.plan").Plan(
        timeline=timeline,
        height=SIDE,
        width=SIDE,
        audio_features=torch.zeros(25, 32, timeline.num_audio_frames),
        waveform=torch.zeros(1, num_samples),
        sample_rate_hz=RATE_HZ,
        ref_latents=torch.zeros(1, 16, 1, SIDE // 8, SIDE // 8),
    )
    with pack_module("wan_s2v_model.runs.store").RunStore.open(tmp_path / "run", {}) as store:
        for clip in range(timeline.num_clips):
            frames = torch.randint(0, 256, (timeline.clip_frames(clip), SIDE, SIDE, 3), dtype=torch.uint8)
            latents = torch.zeros(16, timeline.num_latent_frames, SIDE // 8, SIDE // 8)
            store.write_clip(clip, latents=latents, motion_latents=torch.zeros(1, 16, 19, SIDE // 8, SIDE // 8), frames=frames)
        yield pack_module("wan_s2v_model.runs.clips").Clips(store, plan, delete_with_handle=False, vae=vae)


@pytest.fixture(scope="module")
def encoder(bridge, golden_folder):
    return bridge.AudioEncoder(str(weights_file(find_wav2vec_folders(golden_folder)[0])), "fp32")


def listen(encoder):
    sound = 0.1 * torch.randn(1, 1, NUM_FRAMES * RATE_HZ // 16, generator=torch.Generator().manual_seed(0))
    return pack_module("nodes.audio").WanS2VAudioEncode.execute(encoder, {"waveform": sound, "sample_rate": RATE_HZ}, 0.0, 0.0)


def prepare(encoder, vae, **others):
    audio = listen(encoder).args[0]
    pictures = torch.rand(NUM_FRAMES, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    node = pack_module("nodes.prepare").WanS2VPrepare
    pose = pack_module("nodes.directing").WanS2VPose.execute(1.0, "hold", 0.0, 1.0, 16.0, images=pictures).args[0]
    return node.execute(audio, pictures, vae, **SIZE, pose=pose, **others).args[0]


def save(**source):
    from comfy.cli_args import args

    args.disable_metadata = True
    return pack_module("nodes.video").WanS2VSaveVideo.execute("video", "mp4 (h264)", 18, 16.0, **source)


def files(folder: Path):
    return [path for path in folder.rglob("*") if path.is_file()]


def press(monkeypatch, owner, name, axis, work):
    """Do the work with a cancel in its middle; returns what was still done behind it."""
    import comfy.model_management

    calls = Button()
    with monkeypatch.context() as patch:
        counted(patch, owner, name, calls, axis)
        work()
    assert calls.calls > 1
    button = Button(press_at=calls.calls // 2 + 1)
    with monkeypatch.context() as patch:
        counted(patch, owner, name, button, axis)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            work()
    return button.late


def test_cancel_in_prepare(encoder, vae, monkeypatch, output):
    assert press(monkeypatch, vae, "process_input", 0, lambda: prepare(encoder, vae)) == 0
    assert prepare(encoder, vae).timeline.num_frames == NUM_FRAMES


@pytest.mark.parametrize(
    ("options", "mask", "words"),
    [
        ({"sync_mode": "official"}, slice(0, 64), "A video is dubbed with sync_mode aligned"),
        ({}, slice(0, 8), "source_mask lies outside of what is seen in a video of 64x64"),
    ],
)
def test_what_cannot_be_dubbed_is_said_before_the_pose_is_encoded(options, mask, words, encoder, vae, monkeypatch, output):
    """The pose of an hour takes the VAE minutes."""
    white = torch.zeros(1, 64, 192)
    white[..., mask] = 1
    dub = pack_module("nodes.dub").WanS2VDub.execute(
        0, 1.0, "hold", "whole picture", 0.0, 2.0, 16.0, source_images=torch.rand(4, 64, 192, 3), source_mask=white
    )
    encoded = Button()
    counted(monkeypatch, vae, "process_input", encoded, 0)
    with pytest.raises(ValueError, match=words):
        prepare(encoder, vae, dub=dub.args[0], **options)
    assert encoded.calls == 0


def test_cancel_in_audio_encode(encoder, monkeypatch, output):
    assert press(monkeypatch, pack_module("wan_s2v_model.audio.feature_file"), "layer_at_fps", 0, lambda: listen(encoder)) == 0
    assert not files(output.parent)


def test_cancel_in_decode(vae, clips, monkeypatch, output):
    node = pack_module("nodes.video").WanS2VDecode
    assert press(monkeypatch, vae, "process_output", 2, lambda: node.execute(clips)) <= STILL_ALLOWED
    assert node.execute(clips).args[0].shape == (NUM_FRAMES, SIDE, SIDE, 3)


@pytest.mark.parametrize("kind", ["clips", "images"])
def test_cancel_in_save(kind, clips, monkeypatch, output):
    writer = pack_module("wan_s2v_model.media.video_writer")
    source = {"clips": clips} if kind == "clips" else {"images": torch.rand(NUM_FRAMES, SIDE, SIDE, 3)}
    late = press(monkeypatch, writer, "_to_rgb", 0, lambda: save(**source)) / SIDE  # frames, of as many rows
    assert late < STILL_ALLOWED
    assert [path.name for path in files(output)] == ["video_00001_.mp4"], "of the work that was not cancelled"


def test_transparency_is_left_out(output):
    """As of the pictures that Join Image with Alpha makes."""
    pictures = torch.rand(3, SIDE, SIDE, 4)
    save(images=pictures)
    save(images=pictures[..., :3])
    with_alpha, without = sorted(files(output))
    assert with_alpha.read_bytes() == without.read_bytes()


def fail_once(monkeypatch, owner, name, at_call=1):
    """Let one call of a function run out of memory."""
    calls, function = [], getattr(owner, name)

    def run(*arguments):
        calls.append(name)
        if len(calls) == at_call:
            raise OUT_OF_MEMORY
        return function(*arguments)

    monkeypatch.setattr(owner, name, run)


@pytest.mark.parametrize("at_call", [1, 2, 4], ids=["pose", "pose of a later clip", "picture"])
def test_out_of_memory_in_prepare(at_call, encoder, vae, monkeypatch, output, caplog):
    expected = prepare(encoder, vae)
    fail_once(monkeypatch, pack_module("wan_s2v_model.comfy_bridge.vae"), PASSES["encode"], at_call)
    plan = prepare(encoder, vae)
    assert torch.equal(plan.ref_latents, expected.ref_latents)
    assert all(torch.equal(*pair) for pair in zip(plan.pose_latents, expected.pose_latents, strict=True))
    assert len(warnings(caplog)) == 1


def test_out_of_memory_in_audio_encode(encoder, monkeypatch, output, caplog):
    """In the middle of the layers: those that were there already are forgotten."""
    expected = listen(encoder).args[0].features
    fail_once(monkeypatch, pack_module("wan_s2v_model.audio.feature_file"), "layer_at_fps", at_call=10)
    assert torch.equal(listen(encoder).args[0].features, expected)
    assert [line.partition(" (")[0] for line in warnings(caplog)] == ["the GPU ran out of memory in audio encoding"]


def test_out_of_memory_in_decode(vae, clips, monkeypatch, output, caplog):
    node = pack_module("nodes.video").WanS2VDecode
    expected = node.execute(clips).args[0]
    fail_once(monkeypatch, pack_module("wan_s2v_model.comfy_bridge.vae"), PASSES["decode"], at_call=2)
    assert torch.equal(node.execute(clips).args[0], expected)
    assert len(warnings(caplog)) == 1


class TextEncoder:
    """Runs out of memory in its first calls."""

    def __init__(self, failures):
        from comfy.model_patcher import ModelPatcher

        cpu = torch.device("cpu")
        self.failures, self.patcher = failures, ModelPatcher(torch.nn.Linear(2, 3), cpu, cpu)

    def tokenize(self, text, **options):
        return {}

    def encode_from_tokens_scheduled(self, tokens):
        self.failures -= 1
        if self.failures >= 0:
            raise OUT_OF_MEMORY
        return [[torch.ones(1, 2, 3), {}]]


def test_out_of_memory_in_text_encode(bridge, caplog):
    node = pack_module("nodes.text").WanS2VTextEncode
    positive, _ = node.execute(TextEncoder(failures=1), "a fox", "").args
    assert torch.equal(positive[0][0], torch.ones(1, 2, 3))
    assert [line.partition(" (")[0] for line in warnings(caplog)] == ["the GPU ran out of memory in text encoding"]
    with pytest.raises(torch.OutOfMemoryError, match=r"in text encoding, and there is no way left.*fp8_e4m3fn_scaled"):
        node.execute(TextEncoder(failures=2), "a fox", "")


def test_an_output_folder_that_takes_no_file_is_noticed_before_anything_runs(bridge, tmp_path, monkeypatch):
    import folder_paths

    node, no_folder = pack_module("nodes.video").WanS2VSaveVideo, tmp_path / "a file"
    assert node.validate_inputs("video/wan_s2v") is True
    no_folder.write_bytes(b"")
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(no_folder))
    assert "Nothing can be written into" in node.validate_inputs("video/wan_s2v")


# --- what other loaders and nodes connect


def test_every_socket_of_the_pack_is_looked_at(bridge):
    """ComfyUI compares names of types; a literal in place of a link comes through."""
    sockets = pack_module("nodes.sockets")
    own = {socket.io_type for socket in vars(sockets).values() if getattr(socket, "io_type", "").startswith("WAN_S2V_")}
    assert own
    assert own <= set(sockets.SOCKETS)


def defaults_of(node):
    return {widget.id: widget.default for widget in node.define_schema().inputs if getattr(widget, "default", None) is not None}


def speakers_of_one():
    """The node, and its values for one sound."""
    speakers = pack_module("nodes.speakers").WanS2VSpeakers
    sound = pack_module("wan_s2v_model.audio.features").EncodedAudio(torch.zeros(25, 32, 8), torch.zeros(1, 8000), RATE_HZ, 8000)
    return speakers, defaults_of(speakers) | {"encoded_audio_1": sound}


def test_speakers_name_an_audio_encoder_of_another_loader(bridge):
    speakers, values = speakers_of_one()
    with pytest.raises(ValueError, match="This audio encoder is not ours"):
        speakers.execute(object(), **values | {"box_1": "0 0 50% 100%"})


def test_speakers_name_a_video_without_sound(encoder):
    """Without a word the voices would be played instead of the mix."""
    speakers, values = speakers_of_one()
    assert speakers.execute(object(), **values).args == (values["encoded_audio_1"],)
    with pytest.raises(ValueError, match="There is no played_audio: the video that it comes from has no sound"):
        speakers.execute(encoder, **values, played_audio=None)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("mouth", "source_mask must be a MASK"),
        (torch.ones(1, 1, SIDE, SIDE), "source_mask must be a MASK"),
        (torch.full((1, SIDE, SIDE), torch.nan), "source_mask contains NaN"),
    ],
)
def test_dub_names_what_is_no_mask(bridge, mask, words):
    dub = pack_module("nodes.dub").WanS2VDub
    with pytest.raises(ValueError, match=words):
        dub.execute(**defaults_of(dub), source_images=torch.rand(3, SIDE, SIDE, 3), source_mask=mask)

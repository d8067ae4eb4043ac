"""Bad input: a clear error as early as possible, nothing half-written, and a server that goes on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyError, PromptFailed, PromptRefused

from .graphs import Prompt, add, add_pose, find, inputs_of, patch_model, quick_start

LOADERS = {
    "WanS2VModelLoader": ("model_name", "diffusion_models"),
    "WanS2VTextEncoderLoader": ("text_encoder_name", "text_encoders"),
    "WanS2VAudioEncoderLoader": ("audio_encoder_name", "audio_encoders"),
    "WanS2VVAELoader": ("vae_name", "vae"),
}
WRONG_FILES = {  # what a user may put into the wrong folder
    "WanS2VModelLoader": "vae/wan_2.1_vae_tiny.safetensors",
    "WanS2VTextEncoderLoader": "diffusion_models/wan_s2v_tiny.safetensors",
    "WanS2VAudioEncoderLoader": "text_encoders/umt5_tiny.safetensors",
    "WanS2VVAELoader": "audio_encoders/wav2vec2-tiny/model.safetensors",
}


@pytest.fixture(autouse=True)
def server_goes_on(renderer):
    """Nothing is left behind in the output folder, and the next prompt works."""
    before = renderer.output_files()
    yield
    assert renderer.output_files() == before
    renderer.client.run(quick_start(filename_prefix="after/bad_input"))
    for path in renderer.output_files() - before:
        path.unlink()


def fails(renderer, prompt: Prompt, pattern: str, *, kind: type[ComfyError] = PromptFailed, node: str | None = None) -> ComfyError:
    """Run a prompt that must fail with a message like `pattern`, without having sampled a step."""
    steps = []
    with pytest.raises(kind) as caught:
        renderer.client.run(prompt, steps.append)
    error = caught.value
    assert re.search(pattern, str(error), re.IGNORECASE), str(error)
    assert node is None or error.node_type == node
    sampler = find(prompt, "WanS2VSampler")
    assert not [step for step in steps if step.node == sampler and step.value > 0], "GPU time was spent before the error"
    return error


# --- model files


@pytest.mark.parametrize("node", LOADERS)
def test_missing_model_file(node, renderer):
    prompt = quick_start()
    inputs_of(prompt, node)[LOADERS[node][0]] = "not_there.safetensors"
    fails(renderer, prompt, "not_there", kind=PromptRefused, node=node)


def fails_with_file(renderer, node, models, file_name, data, message):
    """Pick a file with this content in a loader; it is gone afterwards."""
    name, folder = LOADERS[node]
    path = models / folder / file_name
    path.write_bytes(data)
    prompt = quick_start()
    inputs_of(prompt, node)[name] = file_name
    try:
        fails(renderer, prompt, message, node=node)
    finally:
        path.unlink()


@pytest.mark.parametrize("node", LOADERS)
def test_file_of_another_model(node, renderer, base_directory):
    models = base_directory / "models"
    data = (models / WRONG_FILES[node]).read_bytes()
    fails_with_file(renderer, node, models, "wrong_model.safetensors", data, r"wrong_model\.safetensors.*(is not|missing)")


@pytest.mark.parametrize("node", LOADERS)
@pytest.mark.parametrize("size", [0, 1000], ids=["empty", "cut off"])
def test_damaged_file(node, size, renderer, base_directory):
    name, folder = LOADERS[node]
    models = base_directory / "models"
    data = (models / folder / inputs_of(quick_start(), node)[name]).read_bytes()[:size]
    fails_with_file(renderer, node, models, f"damaged_{size}.safetensors", data, rf"damaged_{size}")


# --- picture and sound


def test_picture_that_is_no_picture(renderer):
    (renderer.server.input_directory / "text.png").write_text("not a picture")
    prompt = quick_start()
    inputs_of(prompt, "LoadImage")["image"] = "text.png"
    fails(renderer, prompt, "image", kind=ComfyError, node="LoadImage")


def test_no_picture(renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VPrepare")["image"] = [add(prompt, "StandInImages", count=0), 0]
    fails(renderer, prompt, r"image must be .*picture", node="WanS2VPrepare")


def test_sound_that_is_no_sound(renderer):
    (renderer.server.input_directory / "text.wav").write_text("not a sound")
    prompt = quick_start()
    inputs_of(prompt, "LoadAudio")["audio"] = "text.wav"
    fails(renderer, prompt, "", kind=ComfyError, node="LoadAudio")


def with_audio(kind: str, seconds: float = 0.75, **changes) -> Prompt:
    prompt = quick_start(**changes)
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "StandInAudio", kind=kind, seconds=seconds), 0]
    return prompt


def test_empty_sound(renderer):
    fails(renderer, with_audio("empty"), "audio is empty", node="WanS2VAudioEncode")


def test_sound_too_short_to_hear(renderer):
    fails(renderer, with_audio("tone", 0.02), r"0\.0\d+ s.*at least", node="WanS2VAudioEncode")


def test_selection_behind_the_end(renderer):
    fails(renderer, quick_start(start=1000.0), r"start 1000 s.*end of the audio", node="WanS2VAudioEncode")


@pytest.mark.parametrize("name", ["start", "duration"])
def test_negative_times(name, renderer):
    fails(renderer, quick_start(**{name: -1.0}), name, kind=PromptRefused, node="WanS2VAudioEncode")


def test_pose_as_frames_and_as_video(renderer):
    prompt = quick_start()
    pose = [add(prompt, "StandInImages", count=5), 0]
    add_pose(prompt, images=pose, video=[add(prompt, "CreateVideo", images=pose, fps=16.0), 0])
    fails(renderer, prompt, "either video or images.*both", node="WanS2VPose")


def test_pose_without_a_video(renderer):
    prompt = quick_start()
    add_pose(prompt)
    fails(renderer, prompt, "either video or images.*none", node="WanS2VPose")


def test_pose_video_that_is_no_video(renderer):
    (renderer.server.input_directory / "text.mp4").write_text("not a video")
    prompt = quick_start()
    add_pose(prompt, video=[add(prompt, "LoadVideo", file="text.mp4"), 0])
    fails(renderer, prompt, "video cannot be read", node="WanS2VPose")


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.5, 0.5)])
def test_pose_that_ends_before_it_begins(shares, renderer):
    prompt = quick_start()
    add_pose(prompt, images=[add(prompt, "StandInImages", count=5), 0], start_percent=shares[0], end_percent=shares[1])
    fails(renderer, prompt, "pose must begin before it ends", kind=PromptRefused, node="WanS2VPose")


# --- numbers


@pytest.mark.parametrize("frames", [0, 2, 18, 81, 124])
def test_frames_per_clip(frames, renderer):
    fails(renderer, quick_start(frames_per_clip=frames), r"frames_per_clip.*multiple of 4.*try \d+", kind=PromptRefused)


@pytest.mark.parametrize(("name", "value"), [("width", 32), ("height", 0), ("height", 100_000), ("width", -64)])
def test_sizes_out_of_range(name, value, renderer):
    fails(renderer, quick_start(**{name: value}), rf"than m(in|ax) of .*size\.{name}", kind=PromptRefused, node="WanS2VPrepare")


def test_size_that_is_no_multiple_of_16(renderer):
    fails(renderer, quick_start(width=72), r"width must be a multiple of 16 .*got 72; try 64", node="WanS2VPrepare")


@pytest.mark.parametrize("size", ["540P", None], ids=["unknown", "left out"])
def test_size_that_there_is_not(size, renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VPrepare")["size"] = size
    if size is None:
        del inputs_of(prompt, "WanS2VPrepare")["size"]
    fails(renderer, prompt, r"size must be one of 480P, 720P, 1024x704, custom", kind=PromptRefused, node="WanS2VPrepare")


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("cfg", -1.0), ("seed", -1), ("quality", 60), ("shift", 0.0), ("max_clips", -1)])
def test_other_ranges(name, value, renderer):
    fails(renderer, quick_start(**{name: value}), name, kind=PromptRefused)


@pytest.mark.parametrize(
    ("node", "name", "primitive", "value", "message"),
    [
        ("WanS2VPrepare", "frames_per_clip", "PrimitiveInt", 81, r"frames_per_clip must be a multiple of 4 .*got 81; try 80"),
        ("WanS2VPrepare", "size.width", "PrimitiveInt", 850, r"width must be a multiple of 16 .*got 850"),
        ("WanS2VPrepare", "max_clips", "PrimitiveInt", -1, r"max_clips must be a whole number from 0 .*got -1"),
        ("WanS2VSampler", "cfg", "PrimitiveFloat", 31.0, r"cfg must be a number from 0\.0 to 30\.0; got 31\.0"),
        ("WanS2VSampler", "run_name", "PrimitiveString", "../outside", r"run_name may hold .*got '\.\./outside'"),
        ("WanS2VAudioEncode", "start", "PrimitiveFloat", -1.0, r"start must be a number from 0\.0 .*got -1\.0"),
    ],
)
def test_values_that_come_over_a_link(node, name, primitive, value, message, renderer):
    prompt = quick_start()
    inputs_of(prompt, node)[name] = [add(prompt, primitive, value=value), 0]
    fails(renderer, prompt, message, node=node)


@pytest.mark.parametrize("sigmas", ["", "1.0"])
def test_too_few_noise_levels(sigmas, renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VSampler")["sigmas"] = [add(prompt, "ManualSigmas", sigmas=sigmas), 0]
    fails(renderer, prompt, r"sigmas must be one row of at least 2 noise levels", node="WanS2VSampler")


# --- NaN


def test_nan_in_the_sound(renderer):
    fails(renderer, with_audio("nan"), "audio.*NaN", node="WanS2VAudioEncode")


@pytest.mark.parametrize(("name", "count"), [("image", 1), ("previous_frames", 30)])
def test_nan_in_pictures(name, count, renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VPrepare")[name] = [add(prompt, "StandInImages", count=count, nan=True), 0]
    fails(renderer, prompt, f"{name}.*NaN", node="WanS2VPrepare")


def test_nan_in_the_pose(renderer):
    prompt = quick_start()
    add_pose(prompt, images=[add(prompt, "StandInImages", count=30, nan=True), 0])
    fails(renderer, prompt, "images.*NaN", node="WanS2VPose")


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_nan_in_the_prompt(name, renderer):
    prompt = quick_start()
    sampler = inputs_of(prompt, "WanS2VSampler")
    sampler[name] = [add(prompt, "StandInConditioning", conditioning=sampler[name]), 0]
    fails(renderer, prompt, "prompt.*NaN", node="WanS2VSampler")


def test_nan_from_the_model(renderer):
    prompt = quick_start(run_name="nan")
    patch_model(prompt, "StandInNaNModel")
    with pytest.raises(PromptFailed, match=r"NaN.*It computed in float32\.") as caught:
        renderer.client.run(prompt)
    assert caught.value.node_type == "WanS2VSampler"
    assert not [path for path in renderer.output_files() if path.name.startswith("clip_") and "nan" in path.parts]
    for path in renderer.output_files():
        if "nan" in path.parts:
            path.unlink()


def test_nan_in_frames_to_save(renderer):
    prompt = quick_start()
    save = inputs_of(prompt, "WanS2VSaveVideo")
    del save["clips"]
    save["images"] = [add(prompt, "StandInImages", count=5, nan=True), 0]
    fails(renderer, prompt, "images.*NaN", node="WanS2VSaveVideo")


# --- saving


@pytest.mark.parametrize("prefix", ["../outside", "video/../../outside", "..\\outside", "/outside"])
def test_prefix_outside_the_output_folder(prefix, renderer):
    fails(renderer, quick_start(filename_prefix=prefix), "filename_prefix.*output folder", kind=PromptRefused, node="WanS2VSaveVideo")


@pytest.mark.parametrize("connected", [[], ["clips", "images"]], ids=["nothing", "two things"])
def test_what_to_save(connected, renderer):
    prompt = quick_start(steps=1)
    save = inputs_of(prompt, "WanS2VSaveVideo")
    if "clips" not in connected:
        del save["clips"]
    if "images" in connected:
        save["images"] = [add(prompt, "StandInImages", count=5), 0]
    with pytest.raises(PromptFailed, match="exactly one of clips, video or images"):
        renderer.client.run(prompt)


def test_output_folder_is_a_file(renderer):
    blocker = renderer.server.output_directory / "blocker"
    blocker.write_text("in the way")
    try:
        with pytest.raises(PromptFailed) as caught:
            renderer.client.run(quick_start(filename_prefix="blocker/video"))
    finally:
        blocker.unlink()
    assert caught.value.node_type == "WanS2VSaveVideo"


@contextmanager
def small_files(pid: int, limit_bytes: int) -> Iterator[None]:
    """Make every write of a process beyond a file size fail."""
    resource = pytest.importorskip("resource")
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, old)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@pytest.mark.parametrize("node", ["WanS2VSaveVideo", "WanS2VSampler"])
def test_no_space(node, renderer):
    """A limit on the size of files, which gives the same failing writes as a full disk."""
    prompt = quick_start(run_name="no space", filename_prefix="no_space/video", quality=1, size="custom", width=128, height=128)
    limit = max(400_000, 2 * renderer.server.log_file.stat().st_size)
    if node == "WanS2VSaveVideo":
        save = inputs_of(prompt, node)
        del save["clips"], prompt[find(prompt, "WanS2VSampler")]
        save["images"] = [add(prompt, "StandInImages", count=24, width=512, height=512), 0]
    with small_files(renderer.server.pid, limit), pytest.raises(PromptFailed) as caught:
        renderer.client.run(prompt)
    assert caught.value.node_type == node
    assert re.search(r"space|too large|write|disk", str(caught.value), re.IGNORECASE), str(caught.value)
    left = [path for path in renderer.output_files() if "no space" in path.parts or "no_space" in path.parts]
    assert not [path for path in left if path.name.startswith("clip_") or ".part" in path.name or path.suffix == ".mp4"]
    for path in left:
        path.unlink()

"""Anchors against the drift of a model that drifts, seeds, and going on from the last frames, all through real graphs."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed, PromptRefused

from .graphs import EXACT, FRAMES_PER_CLIP, TWO_CLIPS, add, find, inputs_of, patch_model, quick_start
from .sounds import write_wav

RATE_HZ = 16_000
NUM_CLIPS = 30
FIRST_CLIP = FRAMES_PER_CLIP - 3
GAIN, OFFSET = 0.985, 0.002


def drifting_graph(renderer, num_clips, *, gain=GAIN, offset=OFFSET, **changes):
    """The quick start for whole clips, with the stand-ins of `stand_ins/drift.py` for audio encoder, model and VAE."""
    name = f"tone_{num_clips}.wav"
    times = np.arange((num_clips * FRAMES_PER_CLIP - 3) * RATE_HZ // 16) / RATE_HZ
    write_wav(renderer.server.input_directory / name, 0.3 * np.sin(2 * np.pi * 220 * times), RATE_HZ)
    prompt = quick_start(duration=0, cfg=1.0, steps=1, **changes)
    inputs_of(prompt, "LoadAudio")["audio"] = name
    inputs_of(prompt, "WanS2VAudioEncode")["audio_encoder"] = [add(prompt, "StandInAudioEncoder"), 0]
    vae = add(prompt, "StandInColourVAE", vae=inputs_of(prompt, "WanS2VPrepare")["vae"])
    for node in ("WanS2VPrepare", "WanS2VSampler"):
        inputs_of(prompt, node)["vae"] = [vae, 0]
    patch_model(prompt, "StandInDriftingModel", gain=gain, offset=offset)
    return prompt


def with_continuity(prompt, **settings):
    settings = {"anchor": "off", "anchor_strength": 1.0, "seed_policy": "seed + clip", **settings}
    inputs_of(prompt, "WanS2VSampler")["continuity"] = [add(prompt, "WanS2VContinuity", **settings), 0]
    return prompt


def drift_report(renderer, prompt) -> list[dict[str, float]]:
    """The table of Drift Report, in place of the video: a dict for each clip."""
    del prompt[find(prompt, "WanS2VSaveVideo")]
    node = add(prompt, "WanS2VDriftReport", clips=[find(prompt, "WanS2VSampler"), 0])
    outputs = renderer.client.run(prompt)[node]
    assert len(outputs["images"]) == 1
    (report,) = outputs["text"]
    rows = [row.split() for row in report.split("\n\n")[0].splitlines()[1:]]
    names = ("red", "green", "blue", "red spread", "green spread", "blue spread", "sharpness", "jump", "step")
    return [dict(zip(names, (float(cell.replace("-", "nan") if cell == "-" else cell) for cell in row[2:]), strict=True)) for row in rows]


def drift(report) -> dict[str, float]:
    """Change of each mean and spread from the first clip to the last."""
    return {name: abs(report[-1][name] - report[0][name]) for name in list(report[0])[:6]}


def first_graph(renderer, **settings):
    """Three clips that darken quickly."""
    return drifting_graph(renderer, 3, gain=0.9, offset=0.01, **settings)


@pytest.fixture(scope="module")
def reports():
    """What the module's tests share, by anchor."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("anchor", ["latent statistics", "colour transfer"])
def test_of_thirty_clips_of_drift_a_tenth_is_left_and_no_border_jumps_more(anchor, renderer, reports):
    for name in ("off", anchor):
        if name not in reports:
            reports[name] = drift_report(renderer, with_continuity(drifting_graph(renderer, NUM_CLIPS), anchor=name))
    injected, left = drift(reports["off"]), drift(reports[anchor])
    assert len(reports["off"]) == len(reports[anchor]) == NUM_CLIPS
    assert min(injected.values()) > 3  # of 255
    assert max(left[name] / injected[name] for name in injected) < 0.1, (injected, left)
    jumps = [[clip["jump"] for clip in reports[name][1:]] for name in ("off", anchor)]
    assert max(jumps[1]) <= max(jumps[0]) + 0.1


def test_seeds_of_the_tiny_model(renderer):
    def luma(**continuity):
        prompt = quick_start(seed=300, cfg=1.0, **TWO_CLIPS, **EXACT)
        return renderer.render(with_continuity(prompt, **continuity) if continuity else prompt).luma

    plain, same = luma(), luma(seed_policy="same seed")
    assert np.array_equal(luma(seed_policy="seed + clip"), plain)
    assert np.array_equal(same[:FIRST_CLIP], plain[:FIRST_CLIP])
    assert not np.array_equal(same[FIRST_CLIP:], plain[FIRST_CLIP:])


@pytest.mark.parametrize(("anchor", "changed"), [("latent statistics", "latent_anchor"), ("colour transfer", "colour_anchor")])
def test_run_with_another_anchor_is_not_continued(anchor, changed, renderer):
    name = changed.replace("_", " ")
    renderer.render(drifting_graph(renderer, 2, run_name=name))
    with pytest.raises(PromptFailed, match=f"was made with other inputs:\n  {changed}: 0.0 -> 0.5"):
        renderer.render(with_continuity(drifting_graph(renderer, 2, run_name=name, if_changed="stop"), anchor=anchor, anchor_strength=0.5))


def test_redo_may_switch_latent_statistics_on_but_not_colour_transfer(renderer):
    settings = {"run_name": "held late", "filename_prefix": "continuity/late", **EXACT}
    free = renderer.render(first_graph(renderer, **settings)).luma
    held = renderer.render(with_continuity(first_graph(renderer, redo_from_clip=3, **settings), anchor="latent statistics")).luma
    assert np.array_equal(held[: FIRST_CLIP + FRAMES_PER_CLIP], free[: FIRST_CLIP + FRAMES_PER_CLIP])
    assert abs(held[-1].mean() - free[0].mean()) < abs(free[-1].mean() - free[0].mean())
    with pytest.raises(PromptFailed, match="colour_anchor"):
        renderer.render(with_continuity(first_graph(renderer, redo_from_clip=3, **settings), anchor="colour transfer"))


# Going on


def go_on(renderer, prompt, source, **inputs):
    """Render with the last frames of a source as previous frames; the model shows the newest of them as it is."""
    inputs_of(prompt, "WanS2VPrepare")["previous_frames"] = [add(prompt, "WanS2VTail", **{"frames": 73, **inputs, **source}), 0]
    return renderer.render(prompt)


def second_graph(renderer, **changes):
    return drifting_graph(renderer, 1, gain=1.0, offset=0.0, filename_prefix="continuity/second", **changes, **EXACT)


@pytest.mark.parametrize("frames", [1, 2, 73, 1000])
def test_going_on_from_a_run(frames, renderer):
    first = renderer.render(first_graph(renderer, run_name="first part", **EXACT)).luma
    second = go_on(renderer, second_graph(renderer), {"run_name": "first part"}, frames=frames).luma
    assert second.shape[0] == FIRST_CLIP  # the sound lasts so long, and nothing of the first part is repeated
    assert np.abs(second[0].astype(int) - first[-1]).max() <= 1


def test_run_that_has_grown_is_read_again(renderer):
    def last_level(**settings):
        renderer.render(first_graph(renderer, run_name="grown", **settings, **EXACT))
        return go_on(renderer, second_graph(renderer), {"run_name": "grown"}).luma[0].mean()

    assert last_level(seed=1) == last_level(seed=1)
    renderer.render(drifting_graph(renderer, 3, gain=0.8, offset=0.0, run_name="grown", redo_from_clip=2, **EXACT))
    assert go_on(renderer, second_graph(renderer), {"run_name": "grown"}).luma[0].mean() < last_level(redo_from_clip=2) - 10


def test_going_on_from_a_video_file_and_from_clips(renderer):
    """Both parts in one graph; then from the file of the first one."""
    prompt = first_graph(renderer, filename_prefix="continuity/first", **EXACT)
    first = renderer.render(prompt)
    del prompt[find(prompt, "WanS2VSaveVideo")]
    prepare, sampler = inputs_of(prompt, "WanS2VPrepare"), inputs_of(prompt, "WanS2VSampler")
    tail = add(prompt, "WanS2VTail", frames=73, clips=[find(prompt, "WanS2VSampler"), 0])
    second_plan = add(prompt, "WanS2VPrepare", **{**prepare, "previous_frames": [tail, 0]})
    still = add(prompt, "StandInDriftingModel", model=sampler["model"], gain=1.0, offset=0.0)
    second_clips = add(prompt, "WanS2VSampler", **{**sampler, "plan": [second_plan, 0], "model": [still, 0], "run_name": ""})
    save = {"filename_prefix": "continuity/second", "format": "mp4 (h264)", "quality": 1, "fps": 16.0}
    add(prompt, "WanS2VSaveVideo", clips=[second_clips, 0], **save)
    assert np.abs(renderer.render(prompt).luma[0].astype(int) - first.luma[-1]).max() <= 1

    (renderer.server.input_directory / "first.mp4").write_bytes(first.path.read_bytes())
    prompt = second_graph(renderer)
    video = add(prompt, "LoadVideo", file="first.mp4")
    second = go_on(renderer, prompt, {"video": [video, 0]}).luma
    assert np.abs(second[0].astype(int) - first.luma[-1]).max() <= 4  # 8 bits and half the colour resolution, twice


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "Give Last Frames exactly one of clips, run_name or video; given: none"),
        ({"run_name": "never made"}, "There is no finished clip in .*never made. Check run_name"),
    ],
)
def test_nothing_to_go_on_from(source, message, renderer):
    with pytest.raises(PromptFailed, match=message):
        go_on(renderer, second_graph(renderer), source)


def test_run_name_cannot_leave_the_folder_of_the_runs(renderer):
    with pytest.raises(PromptRefused, match="run_name may hold letters"):
        go_on(renderer, second_graph(renderer), {"run_name": "../secrets"})

"""Runs with a name: finished clips are kept, a second call goes on or says what changed."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed, PromptRefused
from wan_s2v_pack.wan_s2v_model.runs.manifest import RUNS_FOLDER

from .graphs import EXACT, THREE_CLIPS, TWO_CLIPS, add, add_options, change, find, inputs_of, quick_start


def progress_of(renderer, prompt) -> tuple[list[int], np.ndarray]:
    """Values that the sampler reported, and the frames."""
    seen = []
    video = renderer.render(prompt, seen.append)
    sampler = find(prompt, "WanS2VSampler")
    return [step.value for step in seen if step.node == sampler], video.luma


def forget(renderer) -> None:
    """Make ComfyUI run every node again, and load every model again."""
    renderer.client.free()


def clips_of(renderer, run_name) -> list[str]:
    return sorted(path.name for path in renderer.server.output_directory.rglob("clip_*") if run_name in str(path.parent))


def test_resume_after_cancel_gives_the_same_frames(renderer):
    steps = 20  # so that the cancel comes before the end
    options = {"seed": 200, "steps": steps, **THREE_CLIPS, **EXACT}
    _, whole = progress_of(renderer, quick_start(filename_prefix="runs/whole", **options))
    prompt = quick_start(run_name="resumed", filename_prefix="runs/resumed", **options)
    sampler = find(prompt, "WanS2VSampler")
    renderer.cancel(prompt, lambda step: step.node == sampler and step.value > steps)
    kept = clips_of(renderer, "resumed")
    assert len(kept) >= 1
    steps, frames = progress_of(renderer, prompt)
    assert min(steps) > 0
    assert len(clips_of(renderer, "resumed")) == 3
    assert np.array_equal(frames, whole)


def test_resume_with_a_step_cache_gives_the_same_frames_and_the_run_holds_the_error(renderer):
    def prompt(run_name):
        prompt = quick_start(seed=210, steps=20, run_name=run_name, filename_prefix=f"runs/{run_name}", **THREE_CLIPS, **EXACT)
        cache = add(prompt, "WanS2VStepCache", allowed_error=0.2, check_every=2)
        inputs_of(prompt, "WanS2VSampler")["step_cache"] = [cache, 0]
        return prompt

    def tables(run_name):
        return json.loads((renderer.server.output_directory / RUNS_FOLDER / run_name / "manifest.json").read_bytes())["step_cache"]

    _, whole = progress_of(renderer, prompt("cached whole"))
    sampler = find(prompt("cached"), "WanS2VSampler")
    renderer.cancel(prompt("cached"), lambda step: step.node == sampler and step.value > 20)
    assert 1 <= len(clips_of(renderer, "cached")) - len(clips_of(renderer, "cached whole")) < 3
    _, frames = progress_of(renderer, prompt("cached"))
    assert np.array_equal(frames, whole)
    assert tables("cached") == tables("cached whole")
    assert [table["clip"] for table in tables("cached")] == [0, 2]
    assert tables("cached")[0]["guessed"]
    assert 0 < tables("cached")[1]["error"] < 0.4


def test_finished_run_is_not_sampled_again(renderer):
    prompt = quick_start(seed=201, run_name="finished", filename_prefix="runs/finished", **THREE_CLIPS, **EXACT)
    _, first = progress_of(renderer, prompt)
    files = {path: path.stat().st_mtime_ns for path in renderer.server.output_directory.rglob("clip_*") if "finished" in str(path)}
    forget(renderer)
    _, second = progress_of(renderer, prompt)
    assert np.array_equal(first, second)
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_redo_from_a_clip_keeps_the_earlier_ones(renderer):
    prompt = quick_start(seed=202, run_name="redone", filename_prefix="runs/redone", **THREE_CLIPS, **EXACT)
    _, first = progress_of(renderer, prompt)
    redo = quick_start(seed=202, run_name="redone", redo_from_clip=2, filename_prefix="runs/redone", **THREE_CLIPS, **EXACT)
    _, second = progress_of(renderer, redo)
    assert np.array_equal(first, second), "the same settings must give the same clips"


@pytest.mark.parametrize(
    ("altered", "name"),
    [
        (lambda prompt: change(prompt, first_frame="from picture"), "previous_frames"),
        (lambda prompt: add_options(prompt, vae_warmup=4), "vae_warmup"),
    ],
    ids=["first frame", "warm-up"],
)
def test_redo_may_not_change_what_all_clips_share(altered, name, renderer):
    """A start from the picture moves every later clip by 3 frames."""
    run = {"seed": 205, "run_name": f"shared {name}", "filename_prefix": "runs/shared", **THREE_CLIPS}
    renderer.render(quick_start(**run))
    with pytest.raises(PromptFailed, match=name):
        renderer.render(altered(quick_start(**run, redo_from_clip=2)))


def test_another_prompt_makes_another_take_and_the_first_one_stays(renderer):
    """A changed prompt ended red, with two hashes for an explanation."""
    run = {"seed": 206, "run_name": "take", "filename_prefix": "runs/take", **TWO_CLIPS, **EXACT}
    first = renderer.render(saying("A man talks.", **run)).luma
    before = len(renderer.server.log_text())
    second = renderer.render(saying("A woman talks.", **run)).luma
    assert (
        "run 'take' has other inputs: prompt: 'A man talks.' -> 'A woman talks.'; this take is kept as run 'take_2'"
        in (renderer.server.log_text()[before:])
    )
    assert not np.array_equal(first, second)
    assert len(clips_of(renderer, "take_2")) == 2
    assert len(clips_of(renderer, "take")) == 4
    renderer.client.free()
    before = len(renderer.server.log_text())
    assert np.array_equal(renderer.render(saying("A man talks.", **run)).luma, first)
    assert "all 2 clips are there already" in renderer.server.log_text()[before:]


def test_a_later_prompt_is_redone_from_its_clip_on(renderer):
    run = {"seed": 207, "run_name": "later", "filename_prefix": "runs/later", **THREE_CLIPS, **EXACT}
    first, second = (with_prompts(quick_start(**run), f"A man talks.\nclip 3: A man {does}.") for does in ("sings", "laughs"))
    renderer.render(first)
    before = len(renderer.server.log_text())
    renderer.render(change(second, if_changed="redo from the first clip that changes"))
    log = renderer.server.log_text()[before:]
    assert "its inputs have changed, it is made anew from clip 3 on" in log
    assert len(re.findall(r"clip \d.* finished: ", log)) == 1


def saying(text, **changes):
    prompt = quick_start(**changes)
    inputs_of(prompt, "WanS2VTextEncode")["prompt"] = text
    return prompt


def with_prompts(prompt, schedule):
    node = prompt[find(prompt, "WanS2VTextEncode")]
    node.update(
        class_type="WanS2VPromptSchedule", inputs={**node["inputs"], "schedule": schedule, "transition": "switch", "blend_clips": 2}
    )
    del node["inputs"]["prompt"]
    return prompt


def test_changed_settings_are_refused_with_what_changed(renderer):
    renderer.render(quick_start(seed=203, run_name="changed", filename_prefix="runs/changed"))
    with pytest.raises(PromptFailed, match=r"seed.*203.*204") as refused:
        renderer.render(quick_start(seed=204, run_name="changed", if_changed="stop", filename_prefix="runs/changed"))
    assert refused.value.node_type == "WanS2VSampler"


@pytest.mark.parametrize("name", ["../outside", "a/../../b", "/absolute"])
def test_run_name_must_stay_in_the_output_folder(name, renderer):
    before = renderer.output_files()
    with pytest.raises(PromptRefused, match=r"run_name may hold letters") as refused:
        renderer.render(quick_start(run_name=name))
    assert str(refused.value).count("run_name may hold letters") == 1, "ComfyUI says it once for each input that is checked with it"
    assert renderer.output_files() == before


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "talk.", "talk "])
def test_run_name_that_windows_does_not_take_is_refused_everywhere(name, renderer):
    before = renderer.output_files()
    with pytest.raises(PromptRefused, match=r"run_name: .* Windows"):
        renderer.render(quick_start(run_name=name))
    assert renderer.output_files() == before


def test_run_name_of_another_case_is_refused(renderer):
    (renderer.server.output_directory / "wan_s2v_runs" / "Speech").mkdir(parents=True)
    with pytest.raises(PromptRefused, match=r"there is a run 'Speech'.*'speech' is the same name"):
        renderer.render(quick_start(run_name="speech"))

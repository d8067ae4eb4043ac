"""Audio Guidance and Prompts over Time on a real server: what changes nothing, what changes which clip, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed, PromptRefused

from .graphs import EXACT, THREE_CLIPS, TWO_CLIPS, add, find, inputs_of, quick_start

SETTINGS = {"steps": 4, **TWO_CLIPS, **EXACT}
FIRST_CLIP, SECOND_CLIP = 13, 29  # frames up to the end of the clip
CALM, SINGING = "A person is calm.", "A person sings with all her heart, the arms spread wide."


def with_audio_guidance(prompt, **changes):
    defaults = {"audio_cfg": 4.5, "start_percent": 0.0, "end_percent": 1.0, "audio_strength": 1.0}
    inputs_of(prompt, "WanS2VSampler")["audio_guidance"] = [add(prompt, "WanS2VAudioGuidance", **{**defaults, **changes}), 0]
    return prompt


def with_prompt(text, **settings):
    prompt = quick_start(**settings)
    inputs_of(prompt, "WanS2VTextEncode")["prompt"] = text
    return prompt


def with_schedule(prompt, schedule, **changes):
    """Prompts over Time in place of Encode Prompt."""
    encode = prompt[find(prompt, "WanS2VTextEncode")]
    encode["class_type"] = "WanS2VPromptSchedule"
    del encode["inputs"]["prompt"]
    encode["inputs"].update({"schedule": schedule, "transition": "switch", "blend_clips": 2, **changes})
    return prompt


def luma_and_log(renderer, prompt):
    before = len(renderer.server.log_text())
    return renderer.render(prompt).luma, renderer.server.log_text()[before:]


@pytest.mark.parametrize(
    ("changes", "calls"),
    [({}, 2), ({"audio_cfg": 6.0}, 3), ({"audio_cfg": 6.0, "start_percent": 0.5}, 3), ({"audio_strength": 0.5}, 2)],
)
def test_audio_guidance(changes, calls, renderer):
    plain = renderer.render(quick_start(**SETTINGS)).luma
    luma, log = luma_and_log(renderer, with_audio_guidance(quick_start(**SETTINGS), **changes))
    assert f"4 steps of {calls} model calls" in log
    assert np.array_equal(luma, plain) == (not changes)


def test_audio_guidance_without_that_by_the_prompt(renderer):
    _, log = luma_and_log(renderer, with_audio_guidance(quick_start(cfg=1.0, **SETTINGS), audio_cfg=2.0, end_percent=0.5))
    assert "4 steps of 1.5 model calls" in log


def test_audio_guidance_that_ends_before_it_begins_is_refused(client):
    with pytest.raises(PromptRefused, match="Audio guidance must begin before it ends"):
        client.run(with_audio_guidance(quick_start(), start_percent=0.6, end_percent=0.4))


@pytest.mark.parametrize("transition", ["switch", "blend"])
def test_one_prompt_is_the_plain_prompt(transition, renderer):
    plain = renderer.render(with_prompt(CALM, **SETTINGS)).luma
    schedule = f"# one\n{CALM}\n"
    assert np.array_equal(renderer.render(with_schedule(quick_start(**SETTINGS), schedule, transition=transition)).luma, plain)


def test_each_prompt_holds_in_its_clips(renderer):
    settings = {**SETTINGS, **THREE_CLIPS, "format": "mkv (ffv1, lossless)"}  # else the encoder looks ahead
    calm = renderer.render(with_prompt(CALM, **settings)).luma
    switched, log = luma_and_log(renderer, with_schedule(quick_start(**settings), f"{CALM}\nclip 2: {SINGING}"))
    blended = renderer.render(with_schedule(quick_start(**settings), f"{CALM}\n0:01 {SINGING}", transition="blend")).luma
    late = renderer.render(with_schedule(quick_start(**settings), f"1.8s: {SINGING}\n0:00 {CALM}")).luma
    assert "prompt from clip 2 on: A person sings" in log
    for luma, same in ((switched, FIRST_CLIP), (blended, FIRST_CLIP), (late, SECOND_CLIP)):
        assert np.array_equal(luma[:same], calm[:same])
        assert not np.array_equal(luma[same:], calm[same:])
    assert not np.array_equal(switched, blended)


def test_a_run_goes_on_where_a_time_means_the_same_clip_and_only_there(renderer, client):
    def prompt(start, **changes):
        return with_schedule(quick_start(run_name="prompts over time", **{**SETTINGS, **changes}), f"{CALM}\n{start} {SINGING}")

    first = renderer.render(prompt("0:01")).luma
    again, log = luma_and_log(renderer, prompt("0.9s:", quality=0))
    assert "all 2 clips are there already" in log
    assert np.array_equal(again, first)
    with pytest.raises(PromptFailed, match=r"prompt: .*0:01 A person sings.* -> .*clip 1: A person sings"):
        client.run(prompt("clip 1:", if_changed="stop"))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [("", "The schedule has no prompt"), (f"{CALM}\n0;05 {SINGING}", "Line 2 of the schedule has no time"), ("0:05", "has no prompt")],
)
def test_schedule_that_cannot_be_read_is_refused(schedule, message, client):
    with pytest.raises(PromptRefused, match=message):
        client.run(with_schedule(quick_start(), schedule))

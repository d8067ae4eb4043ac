"""Prompts over time: what a line means, which clip it begins in, and what the text of a clip is."""

import logging

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.prompts import (
    PROMPT_KEY,
    ScheduledPrompt,
    begin_of_prompt,
    conditioning_of_clip,
    first_clip,
    parse_schedule,
    place_on_clips,
    prompt_weights,
    require_finite,
    require_width,
    schedule_prompts,
)
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline

RATE_HZ = 16_000


def timeline(num_clips, frames_per_clip=80, free_start=True):
    samples = (num_clips * frames_per_clip - 3 * free_start) * RATE_HZ // 16
    return plan_timeline(samples, RATE_HZ, samples, frames_per_clip=frames_per_clip, free_start=free_start)


# The format


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("0:05 a", {"start_s": 5.0}),
        ("00:05 a", {"start_s": 5.0}),
        ("90:05.5 a", {"start_s": 5405.5}),
        ("1:02:03 a", {"start_s": 3723.0}),
        ("0:05: a", {"start_s": 5.0}),
        ("12.5s: a", {"start_s": 12.5}),
        ("12S:a", {"start_s": 12.0}),
        ("  0s:\ta", {"start_s": 0.0}),
        ("clip 3: a", {"start_clip": 2}),
        ("Clip  1: a", {"start_clip": 0}),
        ("a", {}),
    ],
)
def test_start_of_a_line(line, start):
    assert parse_schedule(line) == [ScheduledPrompt("a", **start)]


@pytest.mark.parametrize(
    "text",
    [
        *("5 people talk", "3s-long talk", "clips of a man", "clip 3rd of a man", "a man: 0:05", "4:3 picture"),
        *("90s sitcom, a man talks", "1950s diner", "80s synth video: neon", "3s", "clip 3 of a man"),
        *("16:9 picture", "12:305 a", "0:05, calm"),
    ],
)
def test_a_first_line_that_only_looks_like_a_time_is_a_prompt(text):
    assert parse_schedule(text) == [ScheduledPrompt(text)]


def test_comments_and_empty_lines_are_left_out_and_the_rest_of_a_line_is_the_prompt():
    text = "# mood: calm\n\nA man talks.\n   # later\n0:10 A man (smile:1.2) #1: sings.  \r\n\nclip 9: A man # nods."
    assert parse_schedule(text) == [
        ScheduledPrompt("A man talks."),
        ScheduledPrompt("A man (smile:1.2) #1: sings.", 10.0),
        ScheduledPrompt("A man # nods.", start_clip=8),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The schedule has no prompt"),
        ("# nothing\n\n", "The schedule has no prompt"),
        ("a\n\nb", "Line 3 of the schedule has no time: got 'b'"),
        ("a\n90s sitcom", "Line 2 of the schedule has no time: got '90s sitcom'. Begin it with 0:05, 12.5s: or clip 3: and"),
        ("a\n0;05 b", "Line 2 of the schedule has no time: got '0;05 b'"),
        ("a\n0:5 b", "Line 2 of the schedule has no time"),
        ("0:05 a\n0:10", "Line 2 of the schedule has no prompt: got '0:10'"),
        ("clip 2:", "Line 1 of the schedule has no prompt: got 'clip 2:'"),
        ("clip 0: a", "Line 1 of the schedule begins in clip 0, but clips count from 1: got 'clip 0: a'"),
    ],
)
def test_lines_that_cannot_be_read_are_refused_by_number(text, message):
    with pytest.raises(ValueError, match=message):
        parse_schedule(text)


# Times to clips


@pytest.mark.parametrize(
    ("start_s", "clip"),
    [
        (0.0, 0),
        (2.40625, 0),  # half way to 4.8125 s, where clip 1 begins
        (2.5, 1),
        (5.0, 1),
        (7.3125, 1),  # half way between 4.8125 and 9.8125 s
        (7.375, 2),
        (9.8125, 2),
        (3600.0, 720),
    ],
)
def test_time_goes_to_the_nearest_border(start_s, clip):
    assert first_clip(ScheduledPrompt("", start_s), timeline(3)) == clip


def test_border_of_a_video_that_goes_on_from_frames():
    assert [first_clip(ScheduledPrompt("", start_s), timeline(3, free_start=False)) for start_s in (2.5, 2.5625, 5.0)] == [0, 1, 1]


@pytest.mark.parametrize("frames_per_clip", [4, 16, 48, 80])
def test_no_time_is_further_away_than_half_a_clip(frames_per_clip):
    plan = timeline(50, frames_per_clip)
    for frame in range(50 * frames_per_clip - 3):
        clip = first_clip(ScheduledPrompt("", frame / 16), plan)
        distances = [abs(plan.first_frame(other) - frame) for other in (clip - 1, clip, clip + 1) if other >= 0]
        assert abs(plan.first_frame(clip) - frame) == min(distances) <= frames_per_clip / 2


# A schedule on the clips of a video


def scheduled(*prompts, blend_clips=0):
    """CONDITIONING of one entry per prompt, whose embedding is its number from 1 on; a text alone has no schedule."""
    entries = []
    for number, prompt in enumerate(prompts, start=1):
        options = {} if isinstance(prompt, str) else {PROMPT_KEY: ScheduledPrompt(str(number), **prompt, blend_clips=blend_clips)}
        entries.append([torch.full((1, 3, 2), float(number)), {**options, "number": number}])
    return entries


def numbers(conditioning, num_clips):
    return [[round(float(tensor[0, 0, 0]), 6) for tensor, _ in conditioning_of_clip(conditioning, clip)] for clip in range(num_clips)]


def test_each_clip_has_the_prompt_that_began_last():
    placed = place_on_clips(scheduled({"start_s": 0.0}, {"start_s": 10.0}, {"start_clip": 4}), timeline(6))
    assert numbers(placed, 6) == [[1], [1], [2], [2], [3], [3]]


def test_begin_of_the_prompt_of_a_clip_also_where_two_are_mixed():
    placed = place_on_clips(scheduled({"start_s": 0.0}, {"start_clip": 2}, {"start_clip": 4}, blend_clips=1), timeline(6))
    assert [begin_of_prompt(placed, clip) for clip in range(6)] == [0, 0, 2, 2, 4, 4]
    assert begin_of_prompt(scheduled("a", "b"), 3) == 0


def test_order_of_the_lines_does_not_matter():
    placed = place_on_clips(scheduled({"start_clip": 4}, {"start_s": 10.0}, {"start_s": 0.0}), timeline(6))
    assert numbers(placed, 6) == [[3], [3], [2], [2], [1], [1]]


def test_earliest_prompt_holds_from_the_start():
    assert numbers(place_on_clips(scheduled({"start_clip": 2}, {"start_clip": 3}), timeline(4)), 4) == [[1], [1], [1], [2]]
    assert numbers(place_on_clips(scheduled({"start_clip": 9}), timeline(2)), 2) == [[1], [1]]


def test_a_switch_gives_the_very_tensor_without_a_trace_of_the_schedule():
    conditioning = scheduled({}, {"start_clip": 1})
    for clip, entry in enumerate(conditioning):
        ((tensor, options),) = conditioning_of_clip(place_on_clips(conditioning, timeline(2)), clip)
        assert tensor is entry[0]
        assert options == {"number": clip + 1}


def test_conditioning_without_a_schedule_is_left_alone_and_holds_everywhere():
    plain = scheduled("a", "b")
    assert place_on_clips(plain, timeline(2)) is plain
    assert conditioning_of_clip(plain, 1) == plain
    both = place_on_clips(scheduled("a", {}, {"start_clip": 1}), timeline(2))
    assert numbers(both, 2) == [[1, 2], [1, 3]]


def test_every_entry_of_a_prompt_belongs_to_it():
    two = [entry for entry in scheduled({}, {"start_clip": 1}) for _ in range(2)]
    assert numbers(place_on_clips(two, timeline(2)), 2) == [[1, 1], [2, 2]]


def test_prompts_that_no_clip_shows_are_named(caplog):
    caplog.set_level(logging.INFO, "wan_s2v")
    conditioning = scheduled({}, {"start_s": 4.0}, {"start_s": 5.0}, {"start_clip": 3})
    assert numbers(place_on_clips(conditioning, timeline(3)), 3) == [[1], [3], [3]]
    assert caplog.messages == [
        "this prompt is never shown, another one begins in clip 2, too: 2",
        "this prompt is never shown, the video ends with clip 3: 4",
        "prompt from clip 1 on: 1",
        "prompt from clip 2 on: 3",
    ]


# Blending


@pytest.mark.parametrize(
    ("starts", "blend_clips", "expected"),
    [
        ((0,), 2, [(1,)] * 3),
        ((0, 2), 0, [(1, 0), (1, 0), (0, 1), (0, 1)]),
        ((0, 1), 1, [(1, 0), (1 / 2, 1 / 2), (0, 1)]),
        ((0, 1), 2, [(1, 0), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (0, 1)]),
        ((0, 1, 2), 2, [(1, 0, 0), (2 / 3, 1 / 3, 0), (2 / 9, 4 / 9, 1 / 3), (0, 1 / 3, 2 / 3), (0, 0, 1)]),
    ],
)
def test_weights(starts, blend_clips, expected):
    prompts = [ScheduledPrompt("", start_clip=start, blend_clips=blend_clips) for start in starts]
    for clip, weights in enumerate(expected):
        assert prompt_weights(prompts, clip) == pytest.approx(weights)


def test_blended_clip_has_the_mean_of_the_embeddings_and_the_options_of_the_newest():
    placed = place_on_clips(scheduled({}, {"start_clip": 1}, blend_clips=1), timeline(3))
    assert numbers(placed, 3) == [[1], [1.5], [2]]
    assert [conditioning_of_clip(placed, clip)[0][1] for clip in range(3)] == [{"number": 1}, {"number": 2}, {"number": 2}]


def test_shorter_embedding_is_padded_with_zeros():
    (short, options), long = scheduled({}, {"start_clip": 1}, blend_clips=1)
    placed = place_on_clips([[short[:, :1], options], long], timeline(2))
    ((tensor, _),) = conditioning_of_clip(placed, 1)
    assert tensor[0, :, 0].tolist() == [1.5, 1.0, 1.0]


# Encoding


def encode(text):
    return [[torch.full((1, 2, 4), float(len(text))), {"pooled": text}]]


def test_one_prompt_needs_no_schedule():
    assert schedule_prompts(encode, [ScheduledPrompt("a fox")], blend_clips=2)[0][1] == {"pooled": "a fox"}


def test_prompts_are_encoded_with_their_times():
    prompts = [ScheduledPrompt("a fox"), ScheduledPrompt("a dog", start_clip=3)]
    options = [entry[1] for entry in schedule_prompts(encode, prompts, blend_clips=2)]
    assert options == [
        {"pooled": "a fox", PROMPT_KEY: ScheduledPrompt("a fox", blend_clips=2)},
        {"pooled": "a dog", PROMPT_KEY: ScheduledPrompt("a dog", start_clip=3, blend_clips=2)},
    ]


def test_prompt_of_another_encoder_is_refused():
    require_width(4, positive=encode("a"), negative=encode("b"))
    with pytest.raises(ValueError, match="The negative prompt has 4 values per token, and this MODEL needs 8"):
        require_width(8, negative=encode("b"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_prompt_is_refused(value):
    require_finite(encode("a"), encode("b"))
    with pytest.raises(ValueError, match="The encoded prompt contains NaN or infinite values"):
        require_finite(encode("a"), [[torch.full((1, 2, 4), value), {}]])

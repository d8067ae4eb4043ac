"""Who computes what in a step: the fastest division, and its words."""

import pytest
from wan_s2v_pack.wan_s2v_model.sampling.gpus import describe, num_crews, work_of_step


@pytest.mark.parametrize(
    ("gpus", "calls", "crews", "work"),
    [
        (1, 1, 1, 1.0),
        (1, 3, 1, 3.0),
        (2, 1, 1, 0.5),
        (2, 2, 2, 1.0),
        (2, 3, 1, 1.5),
        (3, 2, 1, 2 / 3),
        (3, 3, 3, 1.0),
        (4, 1, 1, 0.25),
        (4, 2, 2, 0.5),
        (4, 3, 1, 0.75),
        (6, 3, 3, 0.5),
        (8, 2, 2, 0.25),
        (2, 0, 1, 0.0),
    ],
)
def test_guidance_is_divided_first_where_no_gpu_waits(gpus, calls, crews, work):
    assert num_crews(gpus, calls) == crews
    assert work_of_step(gpus, calls) == pytest.approx(work)


@pytest.mark.parametrize(
    ("gpus", "calls", "text"),
    [
        (1, ["prompt", "negative"], ""),
        (2, ["prompt", "negative"], "2 GPUs: prompt | negative"),
        (2, ["prompt"], "2 GPUs on each model call"),
        (2, ["prompt", "negative", "silent"], "2 GPUs on each model call"),
        (3, ["prompt", "negative", "silent"], "3 GPUs: prompt | negative | silent"),
        (4, ["prompt", "negative"], "4 GPUs: 2 x 2"),
        (2, ["prompt", "prompt", "negative", "negative"], "2 GPUs: 2 x 1"),
    ],
)
def test_words(gpus, calls, text):
    assert describe(gpus, calls) == text

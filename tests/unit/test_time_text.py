"""Times as people read them."""

import pytest
from wan_s2v_pack.wan_s2v_model.time_text import duration, rough_duration, seconds_of, short_duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3600, "1:00:00"), (3723, "1:02:03"), (86_399, "23:59:59")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
    assert seconds_of(text) == round(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.000"), (4.812, "0:04.812"), (59.9996, "1:00.000"), (61.05, "1:01.050"), (3661, "1:01:01.000")]
)
def test_duration_in_milliseconds(seconds, text):
    assert duration(seconds, decimals=3) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.8125, "4.8 s"), (59.94, "59.9 s"), (59.99, "1:00"), (3_723, "1:02:03")])
def test_short_duration(seconds, text):
    assert short_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under 1 s"),
        (7.4, "about 7 s"),
        (99, "about 99 s"),
        (119, "about 2 min"),
        (5_990, "about 1 h 40 min"),
        (5_900, "about 98 min"),
        (11_400, "about 3 h 10 min"),
        (200_000, "about 2 days"),
    ],
)
def test_rough_duration(seconds, text):
    assert rough_duration(seconds) == text

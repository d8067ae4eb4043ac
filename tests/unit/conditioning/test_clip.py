"""The frames that a clip continues from."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.clip import append_history, first_history, sound_of_latents, start_from_picture, start_history


def numbered(count, start=0):
    return (start + torch.arange(float(count)))[:, None, None, None].expand(count, 4, 6, 3)


def numbers(history):
    assert history.shape == (73, 4, 6, 3)
    return history[:, 0, 0, 0].tolist()


def test_first_history_is_grey():
    assert numbers(first_history(4, 6)) == [0.5] * 73


@pytest.mark.parametrize("count", [0, 1, 20, 73, 80, 200])
def test_history_of_earlier_frames_keeps_the_newest(count):
    expected = ([0.5] * 73 + [float(number) for number in range(count)])[-73:]
    assert numbers(first_history(4, 6, numbered(count))) == expected


def test_start_from_picture_replaces_the_last_six_frames():
    grey = first_history(4, 6)
    history = start_from_picture(grey, numbered(1, start=7)[0])
    assert numbers(history) == [0.5] * 67 + [7.0] * 6
    assert numbers(grey) == [0.5] * 73


def test_free_start_has_no_history():
    assert start_history(numbered(1)[0], None, from_picture=False, cover=True) is None


def test_video_starts_from_its_picture():
    history = start_history(numbered(1, start=7)[0], None, from_picture=True, cover=True)
    assert numbers(history) == [0.5] * 67 + [7.0] * 6


def test_video_goes_on_from_earlier_frames_of_another_size():
    history = start_history(numbered(1)[0], torch.ones(20, 16, 24, 4), from_picture=False, cover=True)
    assert numbers(history) == pytest.approx([0.5] * 53 + [1.0] * 20)


def test_a_picture_in_place_of_the_newest_earlier_frames_is_refused():
    with pytest.raises(ValueError, match=r"previous_frames continue another video.*newest 6 frames\. Set first_frame to free"):
        start_history(numbered(1)[0], torch.ones(20, 16, 24, 3), from_picture=True, cover=True)


@pytest.mark.parametrize("history", [False, True])
def test_sound_of_some_latents_of_a_clip(history):
    """With the 73 frames before the clip (-73 to -1) behind its own (0 to 23), or without them."""
    sound = torch.cat([torch.arange(24), torch.arange(-73, 0) if history else torch.empty(0)]).expand(1, 25, 2, -1)
    shown = sound_of_latents(sound, [2, 3, 5], 6)[0, 0, 0].tolist()
    assert shown == [8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23, *(range(8 - 73, 8) if history else [])]
    assert sound_of_latents(sound, range(6), 6).tolist() == sound.tolist()


def test_only_the_newest_earlier_frames_are_fitted():
    previous = torch.cat([torch.full((1000, 1, 1, 3), float("nan")), torch.ones(73, 1, 1, 3)])
    assert numbers(start_history(numbered(1)[0], previous, from_picture=False, cover=True)) == [1.0] * 73


@pytest.mark.parametrize("count", [1, 13, 45, 73, 77, 80])
def test_history_moves_on_by_the_frames_of_a_clip(count):
    expected = [*range(73), *range(1000, 1000 + count)][-73:]
    assert numbers(append_history(numbered(73), numbered(count, start=1000))) == expected

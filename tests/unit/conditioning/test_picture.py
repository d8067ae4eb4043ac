"""Picture sizes, and how pictures and pose are fitted to them."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.picture import (
    AREAS,
    CUSTOM_SIZE,
    choose_size,
    fit_frames,
    fit_image,
    size_note,
    size_within_area,
)

PRESETS = ("480P", "720P", "1024x704")

# picture (height, width) -> (height, width) of the reference at 480P, 720P, 1024x704
REFERENCE_SIZES = {
    (720, 1280): ((448, 832), (704, 1280), (640, 1088)),
    (1280, 720): ((832, 448), (1280, 704), (1088, 640)),
    (1080, 1920): ((448, 832), (704, 1280), (640, 1088)),
    (1024, 704): ((768, 512), (1024, 704), (1024, 704)),
    (480, 832): ((448, 832), (512, 832), (512, 832)),
    (512, 512): ((512, 512), (512, 512), (512, 512)),
    (500, 500): ((512, 512), (512, 512), (512, 512)),
    (256, 256): ((256, 256), (256, 256), (256, 256)),
    (1024, 1024): ((576, 576), (960, 960), (832, 832)),
    (1536, 1024): ((768, 512), (1152, 768), (1024, 704)),
    (2160, 3840): ((448, 832), (704, 1280), (640, 1088)),
    (600, 800): ((512, 704), (640, 832), (640, 832)),
    (512, 800): ((512, 768), (512, 832), (512, 832)),
    (300, 200): ((320, 256), (320, 256), (320, 256)),
    (1365, 768): ((832, 448), (1280, 704), (1088, 640)),
    (63, 63): ((64, 64), (64, 64), (64, 64)),
    (64, 64): ((64, 64), (64, 64), (64, 64)),
    (65, 65): ((128, 128), (128, 128), (128, 128)),
    (2000, 500): ((1216, 320), (1792, 448), (1600, 448)),
    (500, 2000): ((320, 1216), (448, 1792), (448, 1600)),
}


def white(height, width):
    return torch.ones(height, width, 3)


# Size


@pytest.mark.parametrize("picture", REFERENCE_SIZES)
def test_size_is_that_of_the_reference(picture):
    assert tuple(size_within_area(*picture, AREAS[preset]) for preset in PRESETS) == REFERENCE_SIZES[picture]


def test_scale_ends_where_rounding_up_could_still_exceed_the_area():
    assert size_within_area(1014, 3234, AREAS["480P"]) == (384, 1024)
    assert size_within_area(718, 1430, AREAS["720P"]) == (704, 1280)


def test_no_side_is_shorter_than_64():
    assert [min(size_within_area(*picture, AREAS["480P"])) for picture in ((1, 8000), (300_000, 1), (2, 1_000_000))] == [64] * 3


def test_presets_are_areas_of_the_reference():
    assert [AREAS[preset] for preset in PRESETS] == [399_360, 921_600, 720_896]


@pytest.mark.parametrize("preset", PRESETS)
def test_size_stays_within_the_area_for_any_picture(preset):
    sides = (1, 17, 63, 64, 100, 333, 640, 1111, 2500, 8000)
    for height in sides:
        for width in sides:
            size = size_within_area(height, width, AREAS[preset])
            assert size[0] % 64 == size[1] % 64 == 0
            assert min(size) >= 64
            assert size[0] * size[1] <= AREAS[preset]


def test_size_follows_the_picture_or_is_the_one_given(caplog):
    picture = torch.zeros(1, 720, 1280, 3)
    with caplog.at_level("INFO", "wan_s2v"):
        assert choose_size("480P", picture, 64, 64) == (448, 832)
        assert choose_size(CUSTOM_SIZE, picture, 128, 64) == (128, 64)
        assert caplog.messages == []
        assert choose_size(CUSTOM_SIZE, picture, 128, 80) == (128, 80)
    assert caplog.messages == ["80x128 is not a multiple of 64: the far motion history loses its last rows or columns"]


# Picture


@pytest.mark.parametrize(
    ("picture", "target", "bars"),
    [
        ((720, 1280), (448, 832), (0, 36)),
        ((720, 1280), (704, 1280), (0, 29)),
        ((480, 832), (448, 832), (0, 56)),
        ((832, 480), (832, 448), (56, 0)),
        ((1024, 704), (768, 512), (24, 0)),
        ((600, 800), (512, 704), (0, 22)),
        ((1024, 1536), (704, 1024), (0, 0)),
    ],
)
def test_official_fit_shows_the_black_bars_of_the_reference(picture, target, bars):
    fitted = fit_image(white(*picture), *target, cover=False)
    assert fitted.shape == (*target, 3)
    black_rows, black_columns = (fitted.amax(dim=(axis, 2)) == 0 for axis in (1, 0))
    assert (int(black_rows.sum()), int(black_columns.sum())) == bars
    assert torch.equal(fitted[~black_rows][:, ~black_columns].unique(), torch.ones(1))


def test_black_bars_are_centred_with_the_odd_column_on_the_right():
    fitted = fit_image(white(720, 1280), 704, 1280, cover=False)
    shown = fitted[0, :, 0].nonzero()[:, 0]
    assert (int(shown[0]), int(shown[-1])) == (14, 1280 - 1 - 15)


@pytest.mark.parametrize("picture", [(720, 1280), (480, 832), (832, 480), (64, 200), (200, 64), (333, 500), (1000, 999)])
@pytest.mark.parametrize("target", [(448, 832), (832, 448), (512, 512), (240, 496)])
def test_cover_fills_every_pixel(picture, target):
    assert torch.equal(fit_image(white(*picture), *target, cover=True), white(*target))
    torch.testing.assert_close(fit_frames(white(*picture)[None], *target, cover=True), white(*target)[None])


@pytest.mark.parametrize("cover", [True, False])
@pytest.mark.parametrize(("width", "left"), [(64, 0), (65, 0), (66, 1), (67, 2), (100, 18), (101, 18), (103, 20)])
def test_crop_takes_the_middle(noise, width, left, cover):
    picture = (noise(64, width, 3).abs() * 50).round().clamp(0, 255) / 255
    expected = picture[:, left : left + 64]
    torch.testing.assert_close(fit_image(picture, 64, 64, cover=cover), expected)
    torch.testing.assert_close(fit_frames(picture[None], 64, 64, cover=cover), expected[None])
    torch.testing.assert_close(fit_image(picture.transpose(0, 1), 64, 64, cover=cover), expected.transpose(0, 1))


def test_picture_is_resized_with_antialiasing():
    stripes = ((torch.arange(512) + 2) % 8 < 4).float()[None, :, None].expand(512, 512, 3)
    fitted = fit_image(stripes, 64, 64, cover=False)
    assert 0.49 < fitted[8:-8, 8:-8].min() <= fitted[8:-8, 8:-8].max() < 0.51
    assert fit_frames(stripes[None], 64, 64, cover=False)[0, 8:-8, 8:-8].min() > 0.49


def test_picture_keeps_its_channels_and_loses_alpha(noise):
    picture = torch.tensor([0.2, 0.4, 0.6, 0.1]).expand(64, 64, 4)
    torch.testing.assert_close(fit_image(picture, 64, 64, cover=True)[0, 0], torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(fit_frames(picture[None], 64, 64, cover=True)[0, 0, 0], torch.tensor([0.2, 0.4, 0.6]))


def test_picture_is_rounded_to_8_bits_like_the_file_it_came_from():
    levels = torch.arange(256) / 255
    picture = levels[:, None, None].expand(256, 64, 3)
    torch.testing.assert_close(fit_image(picture, 256, 64, cover=True), picture)
    torch.testing.assert_close(fit_image(picture - 0.4 / 255, 256, 64, cover=True), picture)


def test_pixels_out_of_range_are_clamped():
    assert fit_image(white(64, 64) * 7, 64, 64, cover=True).max() == 1
    assert fit_image(white(64, 64) * -7, 64, 64, cover=True).min() == 0


# Pose


@pytest.mark.parametrize(("picture", "target", "bars"), [((720, 1280), (448, 832), (0, 36)), ((832, 480), (832, 448), (56, 0))])
def test_official_pose_is_mid_grey_where_it_does_not_reach(picture, target, bars):
    fitted = fit_frames(white(*picture).expand(2, -1, -1, -1), *target, cover=False)
    grey_rows, grey_columns = ((fitted == 0.5).all(dim=axis).all(dim=0).all(dim=-1) for axis in (2, 1))
    assert fitted.shape == (2, *target, 3)
    assert (int(grey_rows.sum()), int(grey_columns.sum())) == bars
    assert fitted[:, ~grey_rows][:, :, ~grey_columns].min() == pytest.approx(1)


def test_frames_are_fitted_one_by_one(noise):
    frames = noise(3, 90, 70, 3)
    together = fit_frames(frames, 64, 128, cover=True)
    assert torch.equal(together, torch.cat([fit_frames(frame[None], 64, 128, cover=True) for frame in frames]))


@pytest.mark.parametrize(
    ("size", "sides", "is_noted"), [("720P", 512, True), ("480P", 512, True), ("480P", 600, False), ("custom", 64, False)]
)
def test_a_preset_that_does_not_enlarge_the_picture_says_so(size, sides, is_noted):
    note = size_note(size, torch.zeros(1, sides, sides, 3))
    assert (note is not None) == is_noted
    assert note is None or f"{size} is an upper limit: a picture of {sides}x{sides} is not enlarged" in note

"""Masks on the picture become weights of tokens: where each lands for odd sizes and crops, edges, the rest of the picture, movement."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.speakers import Speaker, Speakers, parse_box
from wan_s2v_pack.wan_s2v_model.conditioning.picture import fit_image, size_within_area
from wan_s2v_pack.wan_s2v_model.conditioning.regions import speaker_regions
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import Timeline
from wan_s2v_pack.wan_s2v_model.origin import identity_of

LEFT, RIGHT = parse_box("0 0 50% 100%"), parse_box("50% 0 50% 100%")
SILENCE = torch.zeros(2, 3)
TIMELINE = Timeline("aligned", 16, 3, 45, 45, free_start=True)


def speakers(*places, **settings):
    return Speakers(tuple(Speaker(number, place) for number, place in enumerate(places, start=1)), SILENCE, **settings)


def regions(*places, size=(64, 128), picture=None, cover=True, **settings):
    return speaker_regions(speakers(*places, **settings), picture or size, *size, cover=cover)


def tokens(found, clip=0, latent=0):
    """Weights of each speaker and of silence, [speakers + 1, rows, columns]."""
    return found.of_clip(TIMELINE, clip)[:, latent]


def mask_of(size, *parts):
    mask = torch.zeros(1, *size)
    for top, left, bottom, right in parts:
        mask[:, top:bottom, left:right] = 1
    return mask


# Placement


@pytest.mark.parametrize("cover", [True, False])
@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((64, 128), (64, 128)),
        ((480, 832), (480, 832)),
        ((720, 1280), (448, 832)),  # as the reference fits it: black bars unless it covers
        ((1000, 800), (704, 576)),
        ((501, 333), (512, 384)),
        ((97, 301), (64, 192)),
        ((301, 97), (256, 128)),
        ((2000, 2001), (640, 640)),
        ((45, 200), (64, 208)),
        ((600, 800), (480, 832)),  # cropped at top and bottom
        ((800, 600), (480, 832)),
        ((333, 777), size_within_area(333, 777, 480 * 832)),
    ],
)
def test_a_token_belongs_to_whom_the_fitted_picture_shows_there(picture, size, cover):
    """The picture is painted with its regions and fitted as Prepare fits it; each token must be of the colour that fills most of it."""
    height, width = picture
    spots = (height // 7, width // 5, height // 2, width // 2), (height // 3, 2 * width // 3, height - 3, width - 2)
    masks = [mask_of(picture, spot) for spot in spots]
    painted = torch.zeros(*picture, 3)
    painted[..., :2] = torch.stack([mask[0] for mask in masks], dim=-1)
    shown = fit_image(painted, *size, cover=cover)  # [H, W, 3]
    covered = shown[..., :2].unflatten(0, (-1, 16)).unflatten(2, (-1, 16)).mean(dim=(1, 3))  # [rows, columns, 2]
    found = tokens(regions(*masks, size=size, picture=picture, cover=cover))
    assert found.shape == (3, size[0] // 16, size[1] // 16)
    is_clear = (covered - 0.5).abs() > 0.03  # a token that is cut in half may fall to either side
    assert torch.equal(found[:2].movedim(0, -1)[is_clear] == 1, covered[is_clear] > 0.5)
    assert torch.equal(found.sum(dim=0), torch.ones(size[0] // 16, size[1] // 16))


@pytest.mark.parametrize(("border", "column"), [(64, 4), (71, 4), (73, 5), (79, 5), (56, 4)])
def test_a_token_that_a_border_crosses_belongs_to_who_has_most_of_it(border, column):
    found = tokens(regions(mask_of((64, 128), (0, 0, 64, border)), mask_of((64, 128), (0, border, 64, 128))))
    assert found[0].sum(dim=1).tolist() == [column] * 4
    assert found[1].sum(dim=1).tolist() == [8 - column] * 4


def test_boxes_and_masks_are_the_same():
    boxes = regions(LEFT, parse_box("72 0 30 100%"), size=(64, 128))
    masks = regions(mask_of((64, 128), (0, 0, 64, 64)), mask_of((64, 128), (0, 72, 64, 102)), size=(64, 128))
    assert torch.equal(boxes.shares, masks.shares)


# Edges and the rest of the picture


def test_soft_edges_mix_where_they_meet():
    found = tokens(regions(LEFT, RIGHT, feather_px=64))
    assert found[0, 0].tolist() == sorted(found[0, 0].tolist(), reverse=True)
    assert found[0, 0, 0] == 1
    assert found[0, 0, -1] == 0
    assert 0.5 < found[0, 0, 3] < 0.8
    torch.testing.assert_close(found.sum(dim=0), torch.ones(4, 8))
    torch.testing.assert_close(found[0], found[1].flip(1))
    assert (tokens(regions(LEFT, RIGHT, feather_px=16)) != tokens(regions(LEFT, RIGHT)))[0].sum(dim=1).tolist() == [2] * 4


THIRDS = parse_box("0 0 32 64"), parse_box("96 0 32 64")  # of 128 pixels: two tokens, four of nobody, two tokens


@pytest.mark.parametrize(
    ("nobody", "rows"),
    [
        ("silence", ([1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0])),
        ("nearest", ([1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1], [0] * 8)),
        ("everybody", ([1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1], [0] * 8)),
        ("everybody added", ([1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1], [0] * 8)),
    ],
)
def test_what_the_rest_of_the_picture_hears(nobody, rows):
    assert tokens(regions(*THIRDS, nobody=nobody))[:, 1].tolist() == [list(map(float, row)) for row in rows]


def test_a_hair_of_overlap_is_divided():
    found = regions(mask_of((640, 640), (0, 0, 640, 321)), mask_of((640, 640), (0, 320, 640, 640)), size=(640, 640), feather_px=2)
    torch.testing.assert_close(found.shares.sum(dim=0), torch.ones(1, 40, 40))


# Movement


def test_regions_are_known_by_what_they_were_made_of():
    """Another processor fits the same masks with other last bits."""
    known = [identity_of(regions(LEFT, RIGHT, **options).shares) for options in ({}, {}, {"cover": False}, {"feather_px": 32})]
    assert known[0] == known[1]
    assert all(name.startswith("input ") for name in known)
    assert len({*known, identity_of(regions(RIGHT, LEFT).shares)}) == 4


def test_masks_are_seen_when_their_frames_are():
    """12 masks at 16 fps: six on the left, six on the right, the last one stays; clip 0 drops its first three frames."""
    moving = torch.cat([mask_of((64, 128), (0, 0, 64, 64))] * 6 + [mask_of((64, 128), (0, 64, 64, 128))] * 6)
    found = regions(moving)
    first = found.of_clip(TIMELINE, 0)[0, :, 0].tolist()  # slots 0-3 show frame 0, 4-7 frames 1-4, 8-11 frames 5-8, 12-15 frames 9-12
    left, right = [1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4
    assert first == [left, left, right, right]
    assert found.of_clip(TIMELINE, 1)[0, :, 0].tolist() == [right] * 4


def test_masks_of_another_rate_and_a_still_one_beside_them():
    moving = torch.cat([mask_of((64, 128), (0, 0, 32, 64))] * 3 + [mask_of((64, 128), (32, 0, 64, 64))] * 3)
    found = regions(moving, RIGHT, mask_fps=4.0)  # the change comes at 0.75 s, in frame 12
    rows = [found.of_clip(TIMELINE, clip)[0, :, :, 0].tolist() for clip in (0, 1)]
    assert rows == [[[1.0, 1.0, 0.0, 0.0]] * 4, [[0.0, 0.0, 1.0, 1.0]] * 4]
    assert found.of_clip(TIMELINE, 1)[1, :, :, 6].eq(1).all()


# What cannot be


@pytest.mark.parametrize(
    ("places", "settings", "words"),
    [
        ((mask_of((64, 127), (0, 0, 9, 9)),), {}, r"The mask of speaker 1 has 127x64 pixels, and the picture 128x64\. Draw it on the same"),
        ((LEFT, torch.zeros(1, 64, 64)), {}, "The mask of speaker 2 is empty"),
        ((LEFT, mask_of((64, 128), (0, 56, 64, 128))), {}, "The regions of speakers 1 and 2 overlap: 12 % of the smaller one is in both"),
        ((LEFT, parse_box("200 0 10 10")), {}, "The region of speaker 2 lies outside of the picture, which has 128x64"),
        ((mask_of((64, 128), (20, 20, 27, 27)), RIGHT), {}, "The region of speaker 1 fills no square of 16 pixels of the video of 128x64"),
        (
            (mask_of((192, 128), (0, 0, 40, 128)),),
            {"picture": (192, 128)},
            "or lies where the video shows nothing of the picture",
        ),
    ],
)
def test_what_is_wrong_is_told(places, settings, words):
    with pytest.raises(ValueError, match=words):
        regions(*places, **settings)

"""Which pictures of other nodes are taken."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.pictures import require_pictures

PICTURES = torch.zeros(2, 32, 48, 4)


def test_pictures_with_and_without_transparency_are_taken():
    require_pictures(image=PICTURES, previous_frames=PICTURES[..., :3], pose=None)


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (torch.zeros(32, 48, 3), r"pose must be an IMAGE with at least one colour picture, got shape \(32, 48, 3\)"),
        (torch.zeros(1, 32, 48, 1), "pose must be an IMAGE"),
        (torch.zeros(0, 32, 48, 3), "pose must be an IMAGE"),
        (torch.full((1, 2, 2, 3), float("nan")), "pose contains NaN or infinite pixels"),
        (torch.full((1, 2, 2, 3), float("inf")), "pose contains NaN or infinite pixels"),
    ],
)
def test_pictures_that_are_refused(pixels, problem):
    with pytest.raises(ValueError, match=problem):
        require_pictures(image=PICTURES, previous_frames=None, pose=pixels)

"""Surround sound as the stereo that a video file gets: what is measured, heard by the model and written is the same."""

import torch
from torch import Tensor

SHARED = 10 ** (-3 / 20)  # of centre and surrounds, by ITU-R BS.775
LEFT = {  # weights by number of channels, in the order of FFmpeg: front left and right, centre, low frequencies, back, side
    5: (1, 0, SHARED, SHARED, 0),
    6: (1, 0, SHARED, 0, SHARED, 0),
    8: (1, 0, SHARED, 0, SHARED, 0, SHARED, 0),
}
RIGHT = {
    5: (0, 1, SHARED, 0, SHARED),
    6: (0, 1, SHARED, 0, 0, SHARED),
    8: (0, 1, SHARED, 0, 0, SHARED, 0, SHARED),
}


def fold_down(waveform: Tensor) -> Tensor:
    """[C, T] -> [1 or 2, T]: 5.0, 5.1 and 7.1 become stereo, as a whole quieter where that would clip; other numbers their mean."""
    channels = waveform.shape[0]
    if channels <= 2:
        return waveform
    if channels not in LEFT:
        return waveform.mean(dim=0, keepdim=True)
    stereo = torch.tensor([LEFT[channels], RIGHT[channels]], dtype=waveform.dtype) @ waveform
    peak = stereo.abs().max().item() if stereo.numel() else 0.0
    return stereo / max(1.0, peak)

"""What a finished video file says about its sync, in words and as a picture."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from .constants import DROPPED_FRAMES, VIDEO_FPS
from .drawing import BORDER, DIM_TEXT, LINE_HEIGHT, MARGIN, PANEL, SMALL_FONT_SIZE, TEXT, WAVE, WIDTH, Canvas, to_picture
from .sync_offset import LAGS_MS, LEAST_HEIGHT, LEAST_WINDOWS, MAX_LAG_MS, WINDOW_S, Estimate, Offset, OffsetMeter
from .sync_tracks import ENVELOPE_HZ, GRID, Picture, PictureReader, Playtime, Sound, Source, read_sound

NOTICED_EARLY_MS, NOTICED_LATE_MS = 125, -45  # ITU-R BT.1359: from here on viewers notice that the picture is early or late
REFERENCE_LEAD_MS = 1000 * DROPPED_FRAMES / VIDEO_FPS
HALF_FRAME_MS = 500 / VIDEO_FPS
LEAST_UNEVEN_S = 0.002  # containers round times to 1 ms
LIMITS = (
    "It can tell what the timestamps say, to the millisecond, and when something in the picture changes with the loudness of the sound: to "
    "about 10 ms for a face that talks for 10 seconds. Measured by tracked lips, filmed speech is near 8 ms early and videos of this model "
    "near 58 ms early.",
    "It cannot tell whether the lips form the right sounds, nor whether it is lips that move: hands that clap to the beat count too. It "
    "finds nothing where the mouth is narrower than about a twentieth of the picture, where music hides the voice, where the sound repeats "
    f"steadily, or where the offset is beyond {MAX_LAG_MS} ms. What players, screens and headphones add is not in the file.",
)

PICTURE_BOX = (288, 288)  # px
PLOT_LEFT = MARGIN + PICTURE_BOX[0] + MARGIN
PLOT_WIDTH = WIDTH - MARGIN - PLOT_LEFT
PLOT_HEIGHT = 180
HEADER_HEIGHT = 22
AXIS_HEIGHT = 26
TICK_MS = 250
TINT = torch.tensor([0x6E, 0xA8, 0xFE]) / 255  # WAVE, over the mouth region
TINT_SHARE = 0.6
LEAST_FULL_SCALE = 0.2  # correlation; smaller curves are not blown up to the full height
LINE_CHARACTERS = 74
CAPTION = "blue: where the picture changes with the sound"


@dataclass(frozen=True)
class Measurement:
    """All that was read from a file.

    Attributes:
        sound: None where the file has none. offset: None where there is no sound, or nothing to compare.
        thumbnail: the first picture, [H, W, 3] uint8.
    """

    picture: Picture
    picture_time: Playtime
    sound: Sound | None
    offset: Offset | None
    thumbnail: Tensor


def measure_sync(source: Source, on_progress: Callable[[float], None]) -> Measurement:
    """Read a file twice, first its sound, then its picture.

    Args:
        on_progress: called with the share that is done; what it raises ends the reading.
    Raises:
        ValueError: if the file cannot be read, or has no picture.
    """
    reader = PictureReader(source)
    sound = read_sound(source, lambda: on_progress(0.0))
    frame_s = float(1 / reader.facts.fps)
    meter = None if sound is None else OffsetMeter(sound.loudness, ENVELOPE_HZ, frame_s, sound.loudness_start_s)
    for time_s, brightness in reader.frames():
        if meter is not None:
            meter.add(time_s, brightness)
        on_progress(min(1.0, time_s / reader.facts.seconds) if reader.facts.seconds else 0.0)
    if reader.thumbnail is None:
        raise ValueError("The file has no picture that can be decoded. Save it again.")
    return Measurement(reader.facts, reader.time, sound, None if meter is None else meter.result(), reader.thumbnail)


def sync_text(name: str, measurement: Measurement) -> str:
    """The report: the facts line by line, what they mean, and what such a report can and cannot tell."""
    paragraphs = ["\n".join([f"file: {name}", *fact_lines(measurement)]), "\n".join(findings(measurement)), *LIMITS]
    return "\n\n".join(paragraphs)


def fact_lines(measurement: Measurement) -> list[str]:
    """The measured figures, each as "label: value"."""
    picture, time, sound = measurement.picture, measurement.picture_time, measurement.sound
    lines = [
        f"picture: {picture.codec}, {picture.width} x {picture.height}, {_rate(picture.fps)} fps, {time.num_frames} frames, {_steps(time)}"
    ]
    if sound is None:
        return [*lines, f"length: {time.duration_s:.3f} s", "sound: none"]
    lines.append(f"sound: {sound.codec}, {sound.rate_hz} Hz, {sound.channels} channel{'s' * (sound.channels != 1)}")
    if sound.time.first_s is None:
        return [*lines, f"length: {time.duration_s:.3f} s, and no sound that can be decoded"]
    begin_s, sound_begin_s = time.first_s or 0.0, sound.time.first_s
    length_s, sound_length_s = time.duration_s, sound.time.duration_s
    lines += [
        f"begin: picture {begin_s:.3f} s, sound {sound_begin_s:.3f} s, {_ms(sound_begin_s - begin_s)} apart",
        f"length: picture {length_s:.3f} s, sound {sound_length_s:.3f} s, {_ms(sound_length_s - length_s)} apart",
        f"timestamps: picture {_ms(time.drift_s)}, sound {_ms(sound.time.drift_s)} off; "
        f"greatest jump of the sound {_ms(sound.time.greatest_jump_s)}",
    ]
    return [*lines, *_offset_lines(measurement.offset)]


def findings(measurement: Measurement) -> list[str]:
    """What the figures mean, most important first."""
    return [_offset_finding(measurement), *_timing_findings(measurement)]


def draw_sync(measurement: Measurement) -> Tensor:
    """Draw the correlation at every lag, the mouth region, the figures and what they mean.

    Returns:
        [1, H, 1024, 3] float32 in 0..1.
    """
    facts = fact_lines(measurement)
    sentences = [line for text in findings(measurement) for line in textwrap.wrap(text, LINE_CHARACTERS)]
    text_top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT + MARGIN // 2
    sentence_top = text_top + LINE_HEIGHT * len(facts) + MARGIN
    canvas = Canvas(WIDTH, sentence_top + LINE_HEIGHT * len(sentences) + MARGIN)
    canvas.paste(to_picture(_tinted(measurement)), (MARGIN, MARGIN, *PICTURE_BOX))
    _draw_axis(canvas)
    if measurement.offset is not None:
        _draw_curve(canvas, measurement.offset)
        if measurement.offset.is_certain:
            canvas.text(MARGIN, MARGIN + PICTURE_BOX[1] + LINE_HEIGHT / 2, CAPTION, colour=DIM_TEXT, size=SMALL_FONT_SIZE)
    for row, text in enumerate(facts):
        canvas.labelled_text(PLOT_LEFT, text_top + LINE_HEIGHT * row, text)
    for row, text in enumerate(sentences):
        canvas.text(PLOT_LEFT, sentence_top + LINE_HEIGHT * (row + 0.5), text, colour=TEXT)
    return canvas.to_tensor()


def _offset_lines(offset: Offset | None) -> list[str]:
    if offset is None:
        return ["lips: not measured"]
    if not offset.is_certain:
        return [f"lips: not found; the best peak is {offset.height:.1f}, one that counts {LEAST_HEIGHT:g} or more and narrow"]
    lines = [f"lips: picture {_early(offset.lead.value_ms)} {_interval(offset.lead)}"]
    if offset.drift is not None:
        lines.append(f"drift: {round(offset.drift.value_ms):+d} ms from beginning to end {_interval(offset.drift)}")
    return lines


def _timing_findings(measurement: Measurement) -> list[str]:
    sound, time = measurement.sound, measurement.picture_time
    if sound is None or sound.time.first_s is None:
        return []
    frame_s = float(1 / measurement.picture.fps)
    apart = {
        "begin": sound.time.first_s - (time.first_s or 0.0),
        "last": sound.time.duration_s - time.duration_s,
    }
    found = [
        f"Picture and sound do not {what} together: {_ms(by)} apart, more than one frame."
        for what, by in apart.items()
        if abs(by) > frame_s
    ]
    if abs(sound.time.greatest_jump_s) > frame_s:
        found.append(f"The timestamps of the sound jump by {_ms(sound.time.greatest_jump_s)}: a gap, or two pieces over each other.")
    return found or ["Timestamps: picture and sound begin and end together, within one frame."]


def _offset_finding(measurement: Measurement) -> str:
    offset = measurement.offset
    if measurement.sound is None or measurement.sound.time.first_s is None:
        return "There is no sound, so there is nothing to compare."
    if offset is None:
        return f"Not measured: the video is shorter than {LEAST_WINDOWS * WINDOW_S:g} s, or its picture or its sound never changes."
    if not offset.is_certain:
        return "Cannot tell: nothing in the picture follows the sound clearly enough. What peaks the plot has are chance."
    first_ms, last_ms = offset.at_ends_ms
    if abs(first_ms - last_ms) > HALF_FRAME_MS:
        return f"Picture and sound drift: {_early(first_ms)} at the beginning, {_early(last_ms)} at the end. One of them plays too fast."
    lead_ms = offset.lead.value_ms
    if abs(lead_ms - REFERENCE_LEAD_MS) < HALF_FRAME_MS:
        return f"The picture is about {REFERENCE_LEAD_MS:g} ms early: the {DROPPED_FRAMES} frames of the reference, or sync_mode official."
    if NOTICED_LATE_MS <= lead_ms <= NOTICED_EARLY_MS:
        return f"In sync: viewers notice a picture that is {NOTICED_EARLY_MS} ms early or {-NOTICED_LATE_MS} ms late (ITU-R BT.1359)."
    return f"Out of sync: viewers notice it from {NOTICED_EARLY_MS} ms early or {-NOTICED_LATE_MS} ms late on (ITU-R BT.1359)."


def _rate(fps: Fraction) -> str:
    return f"{float(fps):.3f}".rstrip("0").rstrip(".")


def _steps(time: Playtime) -> str:
    if time.least_step_s is None or time.greatest_step_s is None:
        return "a single one"
    if time.greatest_step_s - time.least_step_s <= LEAST_UNEVEN_S:
        return "evenly spaced"
    return f"{1000 * time.least_step_s:.0f} to {1000 * time.greatest_step_s:.0f} ms apart"


def _ms(seconds: float) -> str:
    value = round(1000 * seconds)
    return f"{value:+d} ms" if value else "0 ms"


def _early(lead_ms: float) -> str:
    value = round(lead_ms)
    return f"{abs(value)} ms {'early' if value >= 0 else 'late'}"


def _interval(estimate: Estimate) -> str:
    return f"(95 %: {estimate.low_ms:+.0f} to {estimate.high_ms:+.0f} ms, + is early)"


def _tinted(measurement: Measurement) -> Tensor:
    """The thumbnail with the mouth region in blue, [H, W, 3] in 0..1."""
    picture = measurement.thumbnail.float() / 255
    if measurement.offset is None or not measurement.offset.is_certain:
        return picture
    cells = torch.from_numpy(measurement.offset.region).float().reshape(1, 1, GRID, GRID)
    share = TINT_SHARE * torch.nn.functional.interpolate(cells, size=picture.shape[:2])[0, 0, ..., None]
    return picture * (1 - share) + TINT * share


def _x(lag_ms: float) -> float:
    return PLOT_LEFT + (lag_ms + MAX_LAG_MS) / (2 * MAX_LAG_MS) * PLOT_WIDTH


def _draw_axis(canvas: Canvas) -> None:
    top, bottom = MARGIN + HEADER_HEIGHT, MARGIN + HEADER_HEIGHT + PLOT_HEIGHT
    canvas.box(PLOT_LEFT, top, PLOT_WIDTH, PLOT_HEIGHT, PANEL[0])
    canvas.box(_x(NOTICED_LATE_MS), top, _x(NOTICED_EARLY_MS) - _x(NOTICED_LATE_MS), PLOT_HEIGHT, PANEL[1])
    canvas.box(_x(0), top, 1, PLOT_HEIGHT, BORDER)
    labels = (
        (PLOT_LEFT, "picture late", "lm"),
        (PLOT_LEFT + PLOT_WIDTH, "picture early", "rm"),
        (_x((NOTICED_LATE_MS + NOTICED_EARLY_MS) / 2), "not noticed", "mm"),
    )
    for x, label, anchor in labels:
        canvas.text(x, top - HEADER_HEIGHT / 2, label, colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor=anchor)
    for lag in range(-MAX_LAG_MS + TICK_MS, MAX_LAG_MS, TICK_MS):
        canvas.box(_x(lag), bottom, 1, 4, BORDER)
        canvas.text(
            _x(lag), bottom + AXIS_HEIGHT / 2 + 2, f"{lag:+d} ms" if lag else "0", colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm"
        )


def _draw_curve(canvas: Canvas, offset: Offset) -> None:
    middle, half = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT / 2, PLOT_HEIGHT / 2 - 8
    scale = half / max(LEAST_FULL_SCALE, float(np.abs(offset.curve).max()))
    canvas.box(PLOT_LEFT, middle, PLOT_WIDTH, 0.5, BORDER)
    canvas.line([(_x(lag), middle - value * scale) for lag, value in zip(LAGS_MS.tolist(), offset.curve.tolist(), strict=True)], WAVE)
    if offset.is_certain:
        left = round(_x(offset.lead.value_ms))
        canvas.box(left, middle - half, 1, 2 * half, TEXT)
        side, anchor = (6, "lm") if offset.lead.value_ms < MAX_LAG_MS / 2 else (-6, "rm")
        canvas.text(left + side, middle + half - 8, f"{offset.lead.value_ms:+.0f} ms", colour=TEXT, size=SMALL_FONT_SIZE, anchor=anchor)

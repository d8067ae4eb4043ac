"""The sync report: what a finished video file says about its sync, in words."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from ..constants import DROPPED_FRAMES, FRAME_RATES, VIDEO_FPS
from .sync_offset import LEAST_HEIGHT, LEAST_WINDOWS, MAX_LAG_MS, WINDOW_S, Estimate, Offset, OffsetMeter
from .sync_tracks import ENVELOPE_HZ, Picture, PictureReader, Sound, Source, StreamTiming, read_sound

NOTICED_EARLY_MS, NOTICED_LATE_MS = 125, -45  # ITU-R BT.1359: from here on viewers notice that the picture is early or late
LEAST_UNEVEN_S = 0.002  # containers round times to 1 ms
LIMITS = (
    "It can tell what the timestamps say, to the millisecond, and when something in the picture changes with the loudness of the sound: to "
    "about 10 ms for a face that talks for 10 seconds. Measured by tracked lips, filmed speech is near 8 ms early and videos of this model "
    "near 58 ms early.",
    "It cannot tell whether the lips form the right sounds, nor whether it is lips that move: hands that clap to the beat count too. It "
    "finds nothing where the mouth is narrower than about a twentieth of the picture, where music hides the voice, where the sound repeats "
    f"steadily, or where the offset is beyond {MAX_LAG_MS} ms. What players, screens and headphones add is not in the file.",
)


@dataclass(frozen=True)
class Measurement:
    """All that was read from a file.

    Attributes:
        sound: None where the file has none. offset: None where there is no sound, or nothing to compare.
        thumbnail: the first picture, [H, W, 3] uint8.
    """

    picture: Picture
    picture_time: StreamTiming
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
    fps = measurement.picture.fps if measurement.picture.fps in FRAME_RATES else VIDEO_FPS
    half_frame_ms, reference_lead_ms = float(500 / fps), float(1000 * DROPPED_FRAMES / fps)
    first_ms, last_ms = offset.at_ends_ms
    if abs(first_ms - last_ms) > half_frame_ms:
        return f"Picture and sound drift: {_early(first_ms)} at the beginning, {_early(last_ms)} at the end. One of them plays too fast."
    lead_ms = offset.lead.value_ms
    if abs(lead_ms - reference_lead_ms) < half_frame_ms:
        return f"The picture is about {reference_lead_ms:g} ms early: the {DROPPED_FRAMES} frames of the reference, or sync_mode official."
    if NOTICED_LATE_MS <= lead_ms <= NOTICED_EARLY_MS:
        return f"In sync: viewers notice a picture that is {NOTICED_EARLY_MS} ms early or {-NOTICED_LATE_MS} ms late (ITU-R BT.1359)."
    return f"Out of sync: viewers notice it from {NOTICED_EARLY_MS} ms early or {-NOTICED_LATE_MS} ms late on (ITU-R BT.1359)."


def _rate(fps: Fraction) -> str:
    return f"{float(fps):.3f}".rstrip("0").rstrip(".")


def _steps(time: StreamTiming) -> str:
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

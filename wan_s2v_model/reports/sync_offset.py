"""How far the picture is ahead of the sound, from what moves with the sound.

A mouth that opens or closes changes the brightness of the picture where it is, and the loudness of the sound. Each cell of the picture
is correlated with the sound: the change of its brightness from frame to frame against the change of loudness over the same time, at every
lag. Signed changes tell opening from closing; how much a cell moves does not, and gave no usable peak in trials. The cells that follow
the sound best are the mouth region. So that chance does not choose its own proof, the region is chosen on every other second of the video
and its correlation counted on the seconds between, and the other way round.

Sums over windows are kept, not frames: memory does not grow with the video.
"""

from dataclasses import dataclass

import numpy as np

WINDOW_S = 1.0
MAX_WINDOWS = 64  # from then on two become one
LAG_STEP_MS = 10
MAX_LAG_MS = 1000
LAGS_MS = np.arange(-MAX_LAG_MS, MAX_LAG_MS + 1, LAG_STEP_MS)  # positive: the picture is early
LOUDNESS_POWER = 0.5  # the ear's is near; with 1 only the loudest syllables count
REGION_SHARE = 0.6  # cells below this share of the best correlation are not in the mouth region
PEAK_WIDTH_MS = 250  # lags this near to a peak belong to it
LEAST_HEIGHT = 4.0  # of a peak over the other lags, in their standard deviation
WIDEST_INTERVAL_MS = 120
LEAST_WINDOWS = 4
MAX_DRIFT_MS = 500
DRIFTS_MS = np.arange(-MAX_DRIFT_MS, MAX_DRIFT_MS + 1, 20)
LEAST_DRIFT_S = 15.0  # shorter videos say nothing about drift
BOOTSTRAP_SAMPLES = 200
PERCENTILES = (2.5, 97.5)
SMALLEST = 1e-9  # keeps divisions by nothing at zero


@dataclass(frozen=True)
class Estimate:
    """A value in ms and its 95 % confidence interval, from a bootstrap over the windows of the video."""

    value_ms: float
    low_ms: float
    high_ms: float

    @property
    def width_ms(self) -> float:
        return self.high_ms - self.low_ms


@dataclass(frozen=True)
class Offset:
    """By how much the picture is ahead of the sound.

    Attributes:
        lead: positive where the picture is early; in the middle of the file where there is drift.
        drift: by how much more the picture leads at the end than at the beginning; None for short videos.
        height: of the peak over the other lags, in their standard deviation.
        curve: [LAGS_MS] correlation of the mouth region with the sound.
        region: [cells] weight of each cell in the mouth region, the greatest is 1.
    """

    lead: Estimate
    drift: Estimate | None
    height: float
    curve: np.ndarray
    region: np.ndarray

    @property
    def at_ends_ms(self) -> tuple[float, float]:
        """The lead at the beginning and at the end: different only where there is drift beyond chance."""
        drift_ms = self.drift.value_ms if self.drift and not self.drift.low_ms <= 0 <= self.drift.high_ms else 0.0
        return self.lead.value_ms - drift_ms / 2, self.lead.value_ms + drift_ms / 2

    @property
    def is_certain(self) -> bool:
        """Whether there is one clear peak that does not depend on single seconds of the video."""
        is_inside = abs(self.lead.value_ms) < MAX_LAG_MS - LAG_STEP_MS
        return is_inside and self.height >= LEAST_HEIGHT and self.lead.width_ms <= WIDEST_INTERVAL_MS


@dataclass
class _Window:
    """Sums over the frames of a stretch of video."""

    start_s: float
    end_s: float
    products: np.ndarray  # [cells, lags]
    picture_power: np.ndarray  # [cells]
    sound_power: np.ndarray  # [lags]
    pieces: int = 1

    def __add__(self, later: "_Window") -> "_Window":
        return _Window(
            self.start_s,
            later.end_s,
            self.products + later.products,
            self.picture_power + later.picture_power,
            self.sound_power + later.sound_power,
            self.pieces + later.pieces,
        )


class OffsetMeter:
    """Takes the frames of a video one by one.

    Args:
        loudness: [T] of the sound at `loudness_hz`, from `loudness_start_s` of the file on.
        frame_s: for how long a frame is shown.
    """

    def __init__(self, loudness: np.ndarray, loudness_hz: int, frame_s: float, loudness_start_s: float = 0.0) -> None:
        self._cumulative = np.concatenate([[0.0], np.cumsum(loudness**LOUDNESS_POWER)]) / loudness_hz
        self._times = loudness_start_s + np.arange(len(self._cumulative)) / loudness_hz
        self._frame_s = frame_s
        self._frames: list[tuple[float, np.ndarray]] = []
        self._windows: list[_Window] = []
        self._pieces = 1  # of WINDOW_S per window

    def add(self, time_s: float, brightness: np.ndarray) -> None:
        """Count a frame that appears at `time_s`, with the brightness [cells] of its cells."""
        self._frames.append((time_s, brightness))
        if abs(time_s - self._frames[0][0]) >= WINDOW_S:  # timestamps of a damaged file may go back
            self._close_window()

    def result(self) -> Offset | None:
        """The offset of all frames so far; None where the video is too short, or nothing in it changes with the sound."""
        if len(self._frames) > 1:
            self._close_window()
        windows = self._windows
        if sum(window.pieces for window in windows) < LEAST_WINDOWS:
            return None
        seconds = windows[-1].end_s - windows[0].start_s
        if seconds <= 0:
            return None
        middles = np.array([(window.start_s + window.end_s) / 2 for window in windows])
        places = (middles - middles.mean()) / seconds  # -0.5 to 0.5
        drifts = DRIFTS_MS if seconds >= LEAST_DRIFT_S else np.array([0])
        curves = _curves(windows, places, drifts)
        if not curves.any():
            return None
        region = np.abs(_region_weights(windows, places, drifts))
        return _offset(curves, places, drifts, region / region.max())

    def _close_window(self) -> None:
        times = np.array([time for time, _ in self._frames])
        picture = np.diff([brightness for _, brightness in self._frames], axis=0)
        sound = np.diff(self._loudness_at(times), axis=0)
        powers = (picture**2).sum(axis=0), (sound**2).sum(axis=0)
        self._keep(_Window(float(times[0]), float(times[-1]), picture.T @ sound, *powers))
        self._frames = self._frames[-1:]

    def _keep(self, window: _Window) -> None:
        if self._windows and self._windows[-1].pieces < self._pieces:
            self._windows[-1] += window
        else:
            self._windows.append(window)
        if len(self._windows) == MAX_WINDOWS and self._windows[-1].pieces == self._pieces:
            self._windows = [first + second for first, second in zip(self._windows[::2], self._windows[1::2], strict=True)]
            self._pieces *= 2

    def _loudness_at(self, times: np.ndarray) -> np.ndarray:
        """Mean loudness while each frame is shown, at every lag: [frames, lags]."""
        starts = times[:, None] + LAGS_MS / 1000
        ends = np.interp(starts + self._frame_s, self._times, self._cumulative)
        return (ends - np.interp(starts, self._times, self._cumulative)) / self._frame_s


def _curves(windows: list[_Window], places: np.ndarray, drifts: np.ndarray) -> np.ndarray:
    """What each window adds to the correlation of a mouth region that was chosen without it: [windows, lags]."""
    scale = _scale(windows)
    curves = np.zeros((len(windows), len(LAGS_MS)))
    for half in (0, 1):
        others = slice(1 - half, None, 2)
        weights = _region_weights(windows[others], places[others], drifts)
        for index in range(half, len(windows), 2):
            curves[index] = weights @ (windows[index].products / scale)
    return curves


def _scale(windows: list[_Window]) -> np.ndarray:
    """What turns products into correlations: [cells, lags]."""
    picture = np.sum([window.picture_power for window in windows], axis=0)
    sound = np.sum([window.sound_power for window in windows], axis=0)
    return np.sqrt(np.outer(picture, sound)).clip(min=SMALLEST)


def _region_weights(windows: list[_Window], places: np.ndarray, drifts: np.ndarray) -> np.ndarray:
    """Choose the mouth region, by whichever drift shows it best.

    Returns:
        [cells] weights, negative where a cell gets darker as the sound gets louder; their absolute sum is 1, or 0 where nothing changes.
    """
    scale = _scale(windows)
    best = np.zeros(len(scale))
    for drift in drifts:
        steps = _steps(places * drift)
        correlations = sum(_shifted(window.products, step) for window, step in zip(windows, steps, strict=True)) / scale
        peaks = np.take_along_axis(correlations, np.abs(correlations).argmax(axis=1)[:, None], axis=1)[:, 0]
        best = max(best, peaks, key=lambda values: np.abs(values).max())
    heights = np.abs(best)
    weights = np.sign(best) * (heights - REGION_SHARE * heights.max()).clip(min=0)
    return weights / max(np.abs(weights).sum(), SMALLEST)


def _offset(curves: np.ndarray, places: np.ndarray, drifts: np.ndarray, region: np.ndarray) -> Offset:
    """Find the peak of all curves together, shifted against each other by each drift."""
    shifted = np.array([[_shifted(curve, step) for curve, step in zip(curves, _steps(places * drift), strict=True)] for drift in drifts])
    draws = np.random.default_rng(0).multinomial(len(curves), np.full(len(curves), 1 / len(curves)), size=BOOTSTRAP_SAMPLES)
    drift, index = None, len(drifts) // 2
    if len(drifts) > 1:
        bootstrap = np.einsum("rw,dwl->rdl", draws, shifted, optimize=True).max(axis=2).argmax(axis=1)
        best = int(shifted.sum(axis=1).max(axis=1).argmax())
        drift = _estimate(float(drifts[best]), drifts[bootstrap])
        index = index if drift.low_ms <= 0 <= drift.high_ms else best
    chosen = shifted[index]
    curve = chosen.sum(axis=0)
    lead = _estimate(_peak_ms(curve), LAGS_MS[(draws @ chosen).argmax(axis=1)])
    return Offset(lead, drift, _height(curve), curve, region)


def _steps(shifts_ms: np.ndarray) -> list[int]:
    return np.rint(shifts_ms / LAG_STEP_MS).astype(int).tolist()


def _shifted(values: np.ndarray, steps: int) -> np.ndarray:
    """Values [..., lags] as they are seen from a lag that is `steps` further, 0 beyond their ends."""
    shifted, count = np.zeros_like(values), values.shape[-1]
    shifted[..., max(0, -steps) : count - max(0, steps)] = values[..., max(0, steps) : count + min(0, steps)]
    return shifted


def _estimate(value_ms: float, bootstrap_ms: np.ndarray) -> Estimate:
    low, high = np.percentile(bootstrap_ms, PERCENTILES)
    return Estimate(value_ms, float(low), float(high))


def _peak_ms(curve: np.ndarray) -> float:
    """Where the greatest value is, between two lags by a parabola through its neighbours."""
    top = int(curve.argmax())
    if not 0 < top < len(curve) - 1:
        return float(LAGS_MS[top])
    before, at, after = curve[top - 1 : top + 2]
    bend = before - 2 * at + after
    return float(LAGS_MS[top] + LAG_STEP_MS * (0.5 * (before - after) / bend if bend else 0.0))


def _height(curve: np.ndarray) -> float:
    others = curve[np.abs(LAGS_MS - LAGS_MS[curve.argmax()]) > PEAK_WIDTH_MS]
    return float((curve.max() - others.mean()) / max(others.std(), SMALLEST))

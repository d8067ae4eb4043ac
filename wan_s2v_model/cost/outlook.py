"""What a usual video takes on a card, before anything is loaded or measured: a draft, and the reference's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..conditioning.timeline import Timeline, plan_timeline
from ..constants import DEFAULT_FRAMES_PER_CLIP, DEFAULT_STEPS, SAMPLE_RATE_HZ
from ..transformer.config import S2V_14B
from .cards import Card, calculated_rates
from .estimate import Estimate, Job, ModelFacts, Rates, estimate

SMALL_MODEL_BYTES = 16.4e9  # the published fp8_scaled file
SPEECH_S = 29.8  # six clips; at 29.9 s a seventh begins
HEIGHT, WIDTH = 480, 832


@dataclass(frozen=True)
class Way:
    """A way to make a video.

    Attributes:
        model_calls: per step; guidance makes it two.
    """

    name: str
    steps: int
    model_calls: int

    def job(self, timeline: Timeline, height: int = HEIGHT, width: int = WIDTH, vae_value_bytes: int = 4) -> Job:
        return Job(timeline, height, width, steps=self.steps, model_calls=self.model_calls, vae_value_bytes=vae_value_bytes)

    def of(self, job: Job) -> Job:
        """Another job, made this way."""
        return replace(job, steps=self.steps, model_calls=self.model_calls, work=job.works.get(self.model_calls))


DRAFT = Way("draft", steps=4, model_calls=1)  # with the LoRA for few steps
REFERENCE = Way("reference", steps=DEFAULT_STEPS, model_calls=2)
WAYS = (DRAFT, REFERENCE)


def loaded_model(weights_bytes: float = SMALL_MODEL_BYTES, *, is_host: bool = False) -> ModelFacts:
    """The 14B model as our loader would load it: computing in 16 bits, float32 between the blocks; on the CPU all in float32."""
    return ModelFacts(S2V_14B, weights_bytes, value_bytes=4 if is_host else 2, residual_bytes=4, is_resident=is_host)


def timeline_of(seconds: float, frames_per_clip: int = DEFAULT_FRAMES_PER_CLIP) -> Timeline:
    """The clips of a sound of this length."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    return plan_timeline(samples, SAMPLE_RATE_HZ, samples, frames_per_clip=frames_per_clip)


def half_minute(way: Way, rates: Rates) -> Estimate:
    """Half a minute of speech in the size of the quick start, with the small model file."""
    return estimate(way.job(timeline_of(SPEECH_S)), loaded_model(), rates)


def half_minute_on(card: Card) -> dict[Way, Estimate]:
    """The same on a card, each way."""
    return {way: half_minute(way, calculated_rates(card)) for way in WAYS}

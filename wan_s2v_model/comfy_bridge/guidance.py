"""Guidance by prompt and by sound as a ComfyUI guider, so that nodes which change or watch the guidance apply."""

import functools
from typing import Any

import comfy.model_patcher
import comfy.samplers
from torch import Tensor

from ..guidance import Scale

PREDICT = "sampler_calc_cond_batch_function"  # in model_options: predicts for all conditionings at once; another node may have set it


class ScaledGuider(comfy.samplers.CFGGuider):
    """Guides by the prompt and by the sound, each with its scale at some noise levels and with 1 at the others.

    The prompt in silence is asked only where the scales differ, the negative prompt only where that of the prompt is not 1.
    """

    def __init__(self, model: comfy.model_patcher.ModelPatcher, text: Scale, audio: Scale):
        super().__init__(model)
        self.text, self.audio = text, audio
        self.set_cfg(text.value)

    def set_conds(self, positive, negative, silent=()):
        super().set_conds(positive, negative)
        if self.audio != self.text:
            self.inner_set_conds({"silent": silent})

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
        whole, level = self.cfg, float(timestep[0])
        self.cfg, audio_cfg = self.text.at(level), self.audio.at(level)
        if audio_cfg != self.cfg:
            predict = functools.partial(self._weigh_sound, model_options.get(PREDICT, _predict), audio_cfg / self.cfg)
            model_options = {**model_options, PREDICT: predict}
        try:
            return super().predict_noise(x, timestep, model_options, seed)
        finally:
            self.cfg = whole

    def _weigh_sound(self, predict, ratio: float, args: dict[str, Any]) -> list[Tensor]:
        """Predictions of both prompts, the positive one with its difference to silence times `ratio`: cfg then makes it audio_cfg."""
        heard, negative, silent = predict({**args, "conds": [*args["conds"], self.conds["silent"]]})
        return [heard + (ratio - 1) * (heard - silent), negative]


def _predict(args: dict[str, Any]) -> list[Tensor]:
    return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

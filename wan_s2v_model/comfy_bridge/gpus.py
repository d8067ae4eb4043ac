"""All GPUs of core's "MultiGPU CFG Split" node in every model call: its copies of a MODEL, in crews that share the tokens of a call."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..sampling.gpus import num_crews
from ..transformer.crew import Crew, Halt, Member

logger = logging.getLogger("wan_s2v")
CREWS_KEY = "wan_s2v_crews"  # in transformer_options: a GpuCrew for each device that leads one
CLONES_KEY = "multigpu_clones"  # core's, in model_options: device -> its copy of the MODEL
MULTIGPU = "multigpu"  # core's name for them among the additional models of a MODEL


def gpus_of(model: ModelPatcher) -> list[ModelPatcher]:
    """A MODEL and its copies on other GPUs."""
    return [model, *model.get_additional_models_with_key(MULTIGPU)]


class GpuCrew:
    """A crew with the MODEL of each member, the leader's first."""

    def __init__(self, patchers: list[ModelPatcher], halt: Halt):
        self.patchers = patchers
        self._crew = Crew([patcher.load_device for patcher in patchers], halt)
        self._strengths: dict[int, Any] = {}

    def run(self, work: Callable[[ModelPatcher, Member], Tensor]) -> Tensor:
        """What the leader returns of `work`, which all members do at once."""

        def do(member: Member) -> Tensor:
            if member.rank:
                self._apply_hooks(member.rank)
            return work(self.patchers[member.rank], member)

        return self._crew.run(do)

    def _apply_hooks(self, rank: int) -> None:
        """Change the weights of a helper as hooks have changed the leader's for this call; core cares for leaders only."""
        hooks, patcher = self.patchers[0].current_hooks, self.patchers[rank]
        strengths = hooks and [hook.strength for hook in hooks.hooks]
        if strengths != self._strengths.get(rank):
            patcher.cached_hook_patches.clear()
            patcher.patch_hooks(None)
        self._strengths[rank] = strengths
        patcher.apply_hooks(hooks)

    def close(self) -> None:
        self._crew.close()


class Gpus:
    """The GPUs of one sampling, in crews of one size for each number of calls."""

    def __init__(self) -> None:
        self._halt = Halt()
        self._crews: dict[int, dict[torch.device, GpuCrew]] = {}

    def for_calls(self, model_options: dict[str, Any], num_calls: int) -> dict[str, Any]:
        """The options of a step that makes so many model calls: core gives each to a leader, who brings its crew."""
        clones = model_options.get(CLONES_KEY)
        if not clones:
            return model_options
        patchers = list(clones.values())
        count = num_crews(len(patchers), num_calls)
        if count not in self._crews:
            self._crews[count] = {crew.patchers[0].load_device: crew for crew in self._divided(patchers, count)}
        crews = self._crews[count]
        options = {name: value for name, value in model_options.items() if name != CLONES_KEY}
        if count > 1:
            options[CLONES_KEY] = {device: crew.patchers[0] for device, crew in crews.items()}
        return {**options, "transformer_options": {**model_options["transformer_options"], CREWS_KEY: crews}}

    def close(self) -> None:
        """End all threads."""
        for crews in self._crews.values():
            for crew in crews.values():
                crew.close()
        self._crews.clear()

    def _divided(self, patchers: list[ModelPatcher], count: int) -> list[GpuCrew]:
        """Equal crews of neighbours; the first GPU leads the first one."""
        size = len(patchers) // count
        return [GpuCrew(patchers[start : start + size], self._halt) for start in range(0, len(patchers), size)]


def crew_of(transformer_options: dict[str, Any]) -> GpuCrew | None:
    """The crew that the running model call leads."""
    crews = transformer_options.get(CREWS_KEY)
    if not crews:
        return None
    return crews.get(transformer_options.get("multigpu_thread_device"), next(iter(crews.values())) if len(crews) == 1 else None)

"""All GPUs of core's "MultiGPU CFG Split" node in every model call: its copies of a MODEL, in crews that share the tokens of a call."""

import copy
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..cost.product import PRODUCT_SIZE_ON_HOST, measure_product, product_bytes
from ..sampling.gpus import ANY_CALL, Call, Group, Speeds, describe, divide, most_gpus, seconds_of_step
from ..transformer.crew import Crew, Halt, Member, Stopwatch, copy_speed

TIMED_CALLS = range(1, 3)  # of a crew in each clip
CLOCK: Callable[[], float] | None = None  # of the stopwatches; None: GPUs tell the time themselves, and nothing else is timed
LINK_BYTES = 2**26
CREWS_KEY = "wan_s2v_crews"  # in transformer_options: a GpuCrew for each device that leads one
CLONES_KEY = "multigpu_clones"  # core's, in model_options: device -> its copy of the MODEL
MULTIGPU = "multigpu"  # core's name for them among the additional models of a MODEL
_known: dict[Hashable, Speeds] = {}


def gpus_of(model: ModelPatcher) -> list[ModelPatcher]:
    """A MODEL and its copies on other GPUs."""
    return [model, *model.get_additional_models_with_key(MULTIGPU)]


def without_copies(model: ModelPatcher) -> ModelPatcher:
    """A clone of a MODEL, for its own GPU alone."""
    model = model.clone()
    model.remove_additional_models(MULTIGPU)
    return model


def copies_for(vae: comfy.sd.VAE, model: ModelPatcher) -> list[comfy.sd.VAE]:
    """Copies of a VAE for the other GPUs of a MODEL; none where its loader cannot make them."""
    devices = [patcher.load_device for patcher in gpus_of(model) if patcher.load_device != vae.device]
    if not devices or vae.patcher.cached_patcher_init is None:
        return []
    return [_copy_for(vae, device) for device in devices]


def _copy_for(vae: comfy.sd.VAE, device: torch.device) -> comfy.sd.VAE:
    """A VAE with weights of its own on another GPU."""
    other = copy.copy(vae)
    other.patcher = vae.patcher.deepclone_multigpu(new_load_device=device)
    other.first_stage_model, other.device = other.patcher.model, device
    return other


class GpuCrew:
    """A crew with the MODEL of each member, the leader's first."""

    def __init__(self, patchers: list[ModelPatcher], halt: Halt):
        self.patchers = patchers
        self._crew = Crew([patcher.load_device for patcher in patchers], halt)
        self._strengths: dict[int, Any] = {}
        self._calls = 0
        self.timings: list[tuple[Group, list[Stopwatch]]] = []

    def work_as(self, group: Group) -> None:
        """In these shares from the next call on."""
        self._group = group
        self._crew.shares, self._crew.over = group.shares, group.over

    def run(self, work: Callable[[ModelPatcher, Member], Tensor]) -> Tensor:
        """What the leader returns of `work`, which all members do at once."""

        def do(member: Member) -> Tensor:
            if member.rank:
                self._apply_hooks(member.rank)
            return work(self.patchers[member.rank], member)

        watches = self._watches()
        result = self._crew.run(do, watches)
        if watches:
            self.timings.append((self._group, watches))
        self._calls += 1
        return result

    def _watches(self) -> list[Stopwatch] | None:
        """For the calls that are timed: some behind the first one, which computes what is constant."""
        devices = [patcher.load_device for patcher in self.patchers]
        is_timed = self._calls in TIMED_CALLS and (CLOCK is not None or all(device.type == "cuda" for device in devices))
        return [Stopwatch(device, CLOCK) for device in devices] if is_timed else None

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
    """The GPUs of one sampling, in the crews that are the fastest for each number of calls.

    Args:
        call: what a model call of this sampling costs. speeds: of the GPUs, as far as they are known; None: all alike.
    """

    def __init__(self, call: Call = ANY_CALL, speeds: Speeds | None = None) -> None:
        self._call, self._speeds = call, speeds
        self._halt = Halt()
        self._crews: dict[tuple[int, ...], GpuCrew] = {}

    def for_calls(self, model_options: dict[str, Any], num_calls: int) -> dict[str, Any]:
        """The options of a step that makes so many model calls: core gives each to a leader, who brings its crew."""
        clones = model_options.get(CLONES_KEY)
        if not clones:
            return model_options
        patchers = list(clones.values())
        self._learn()
        crews = {crew.patchers[0].load_device: crew for crew in self._at_work(patchers, num_calls)}
        options = {name: value for name, value in model_options.items() if name != CLONES_KEY}
        if list(crews) != [patchers[0].load_device]:
            options[CLONES_KEY] = {device: crew.patchers[0] for device, crew in crews.items()}
        return {**options, "transformer_options": {**model_options["transformer_options"], CREWS_KEY: crews}}

    def close(self) -> None:
        """End all threads."""
        self._learn()
        for crew in self._crews.values():
            crew.close()
        self._crews.clear()

    def _at_work(self, patchers: list[ModelPatcher], num_calls: int) -> list[GpuCrew]:
        if self._speeds is None:
            self._speeds = Speeds([1.0] * len(patchers))
        groups = self._speeds.groups(num_calls, self._call)
        for group in groups:
            if group.members not in self._crews:
                self._crews[group.members] = GpuCrew([patchers[member] for member in group.members], self._halt)
            self._crews[group.members].work_as(group)
        return [self._crews[group.members] for group in groups]

    def _learn(self) -> None:
        """Take in the times of calls that are over."""
        for crew in self._crews.values():
            over = [timing for timing in crew.timings if all(watch.is_over for watch in timing[1])]
            crew.timings = [timing for timing in crew.timings if timing not in over]
            for group, watches in over:
                working, whole = zip(*(watch.seconds() for watch in watches), strict=True)
                assert self._speeds is not None
                self._speeds.learn(group, self._call, working, max(whole))


def other_gpus(count: int) -> list[torch.device]:
    """The GPUs beside ComfyUI's own that core's node takes for so many in all."""
    own = comfy.model_management.get_torch_device()
    return [device for device in comfy.model_management.get_all_torch_devices() if device != own][: count - 1]


class GpusAhead(NamedTuple):
    """What the graph says of the GPUs that will work on a plan.

    Attributes:
        number: of them. works: how long a step of so many calls takes, in calls of one. words: what they will do.
    """

    number: int
    works: dict[int, float]
    words: str


ONE_GPU = GpusAhead(1, {}, "")


def gpus_ahead(prompt: Mapping[str, Any], plan_node: str) -> GpusAhead:
    """The GPUs of core's node in front of the sampler that gets a plan, as the queued graph in API format has it."""
    count = 1 + len(other_gpus(most_gpus(prompt, plan_node)))
    if count == 1:
        return ONE_GPU
    own = comfy.model_management.get_torch_device()
    rates = rates_of([own, *other_gpus(count)], torch.bfloat16)
    ways = {calls: divide(rates, len(calls)) for calls in (("prompt",), ("prompt", "negative"))}
    works = {len(calls): seconds_of_step(groups, rates, len(calls)) * rates[0] for calls, groups in ways.items()}
    plain, guided = (describe(groups, calls, count) for calls, groups in ways.items())
    return GpusAhead(count, works, f"{plain}; with guidance {guided}")


def speeds_of(model: ModelPatcher, computation: Hashable) -> Speeds:
    """What is known of the speeds of a MODEL's GPUs with these kernels; the same object for as long as ComfyUI runs."""
    devices, dtype = tuple(patcher.load_device for patcher in gpus_of(model)), model.model.get_dtype_inference()
    key = devices, dtype, computation
    if key not in _known:
        _known[key] = Speeds(rates_of(devices, dtype), link=lambda source, target: _link(devices[source], devices[target]))
    return _known[key]


def rates_of(devices: Sequence[torch.device], dtype: torch.dtype) -> list[float]:
    """The rate of a large product on each device; devices of one name are alike."""
    rates = {device_name(device): device for device in reversed(devices)}
    known = {name: product_rate(device, dtype) for name, device in rates.items()}
    return [known[device_name(device)] for device in devices]


@functools.cache
def _link(source: torch.device, target: torch.device) -> float:
    return copy_speed(source, target, LINK_BYTES) if source.type == "cuda" else math.inf


@functools.cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, measured once."""
    if is_on_host(device):
        return measure_product(device, dtype, PRODUCT_SIZE_ON_HOST)
    comfy.model_management.free_memory(product_bytes(dtype), device)
    return measure_product(device, dtype)


def is_on_host(device: torch.device) -> bool:
    """Whether a device computes in main memory."""
    return comfy.model_management.is_device_cpu(device) or comfy.model_management.is_device_mps(device)


def device_name(device: torch.device) -> str:
    if comfy.model_management.is_device_cpu(device):
        return "the CPU"
    if comfy.model_management.is_device_cuda(device):
        return torch.cuda.get_device_name(device)
    return comfy.model_management.get_torch_device_name(device)


def crew_of(transformer_options: dict[str, Any]) -> GpuCrew | None:
    """The crew that the running model call leads."""
    crews = transformer_options.get(CREWS_KEY)
    if not crews:
        return None
    return crews.get(transformer_options.get("multigpu_thread_device"), next(iter(crews.values())) if len(crews) == 1 else None)

"""Which model is on the GPU while the transformer samples, and what is done when its memory runs out."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor

from .gpus import gpus_of

logger = logging.getLogger("wan_s2v")
EVERYTHING_BYTES = 1e30
RESULTS_ON_THE_WAY = 1  # into main memory, beside the one that is computed
OOM_ERRORS = (comfy.model_management.OOM_EXCEPTION, comfy.model_management.ACCELERATOR_ERROR)
KEPT = "The finished clips are kept where the run has a name: queue the same again to go on. "
Result = TypeVar("Result")


def keep_on_gpu(patcher: comfy.model_patcher.ModelPatcher, stays: bool) -> None:
    """Note whether the loader was told not to offload this model; all clones of the patcher share the note."""
    patcher.model.disable_offload = stays  # ComfyUI's own name for it


def stays_on_gpu(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the loader was told not to offload this model."""
    return getattr(patcher.model, "disable_offload", False)


def is_loaded(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether ComfyUI has loaded a model and has not taken it off its device since."""
    return any(loaded.model is patcher for loaded in [*comfy.model_management.current_loaded_models])  # another thread may change them


def take_others_off_gpu(model: comfy.model_patcher.ModelPatcher, *needed: comfy.model_patcher.ModelPatcher) -> None:
    """Free the GPUs of a MODEL of text and audio encoders and whatever else is not needed for sampling, unless it is meant to stay.

    ComfyUI itself unloads only what is in the way, and with dynamic VRAM keeps the encoders' weights until something else needs the room.
    """
    gpus = gpus_of(model)
    for patcher in gpus:
        if not comfy.model_management.is_device_cpu(patcher.load_device):
            _take_off(patcher.load_device, [*gpus, *needed])


def _take_off(device: torch.device, needed: Sequence[comfy.model_patcher.ModelPatcher]) -> None:
    def leaves(loaded: comfy.model_management.LoadedModel) -> bool:
        patcher = loaded.model
        is_needed = patcher is None or stays_on_gpu(patcher) or any(patcher.is_clone(other) for other in needed)
        return loaded.device == device and not is_needed

    loaded_models = comfy.model_management.current_loaded_models
    leaving = [loaded for loaded in loaded_models if leaves(loaded)]
    keep = [loaded for loaded in loaded_models if not leaves(loaded)]
    if leaving:
        logger.info("taking off the GPU before sampling: %s", ", ".join(type(loaded.model.model).__name__ for loaded in leaving))
        comfy.model_management.free_memory(EVERYTHING_BYTES, device, keep)


def take_all_others_off_gpu(model: comfy.model_patcher.ModelPatcher) -> None:
    """Leave one model alone on each of its GPUs, whatever the loaders of the others were told: memory has run out."""
    for patcher in gpus_of(model):
        device = patcher.load_device
        if not comfy.model_management.is_device_cpu(device):
            loaded_models = comfy.model_management.current_loaded_models
            keep = [loaded for loaded in loaded_models if loaded.model is not None and loaded.model.is_clone(patcher)]
            comfy.model_management.free_memory(EVERYTHING_BYTES, device, keep)


def take_memory_peak(model: comfy.model_patcher.ModelPatcher) -> float | None:
    """Most bytes of one of its CUDA devices that tensors took since the last call; None for other devices."""
    devices = [patcher.load_device for patcher in gpus_of(model) if patcher.load_device.type == "cuda"]
    peaks = [torch.cuda.max_memory_allocated(device) for device in devices]
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    return max(peaks, default=None)


def in_host_memory(tensor: Tensor) -> Tensor:
    """A copy in main memory: pinned, which is fetched faster, where that can be."""
    return _pinned(tensor.cpu())


def bring_over(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from main memory on a device. From pinned memory, which this goes through, the copy is only queued: nobody waits."""
    if device.type != "cuda" or tensor.device.type != "cpu" or not _pins():
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else _pinned(tensor.contiguous())).to(device, non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """A tensor in pinned memory, where ComfyUI pins memory and the system has some to pin; else as it is."""
    if not _pins():
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        _say_unpinned(error)
        return tensor


def _say_unpinned(error: RuntimeError) -> None:
    logger.info("main memory could not be pinned (%s): copies take longer", str(error).partition("\n")[0])


def _pins() -> bool:
    """Whether ComfyUI pins main memory: not with --disable-pinned-memory, nor for a device that gains nothing."""
    return comfy.model_management.MAX_PINNED_MEMORY > 0


class Outbox:
    """Brings results into main memory while the device computes the next ones.

    A copy into ordinary memory waits for all that the device was told to do. Each of these goes into pinned memory, by a stream of its
    own, and is handed on when the next but one is there.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" and _pins() else None
        self._device = device
        self._on_the_way: deque[tuple[Any, Tensor, Tensor, Callable[[Tensor], object]]] = deque()

    def put(self, result: Tensor, hand_on: Callable[[Tensor], object]) -> None:
        """Call hand_on(the result in main memory) soon, in the order in which results come."""
        if self._stream is None:
            hand_on(result.cpu())
            return
        try:
            arrived = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        except RuntimeError as error:
            _say_unpinned(error)
            self.empty()
            self._stream = None
            hand_on(result.cpu())
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            arrived.copy_(result, non_blocking=True)
        self._on_the_way.append((self._stream.record_event(), arrived, result, hand_on))
        while len(self._on_the_way) > RESULTS_ON_THE_WAY:
            self._hand_on()

    def empty(self) -> None:
        """Hand on what is still on its way."""
        while self._on_the_way:
            self._hand_on()

    def _hand_on(self) -> None:
        copied, arrived, _, hand_on = self._on_the_way.popleft()
        copied.synchronize()
        hand_on(arrived)


def load_all_weights(model: comfy.model_patcher.ModelPatcher, noise_shape: Sequence[int]) -> None:
    """Load a model that must not be offloaded as a whole; ComfyUI would leave out what it thinks does not fit."""
    if stays_on_gpu(model):
        needed = model.memory_required([2 * noise_shape[0], *noise_shape[1:]])
        comfy.model_management.load_models_gpu(gpus_of(model), memory_required=needed, force_full_load=True)


def room_for(vae: comfy.sd.VAE) -> tuple[float, float]:
    """Bytes of weights that still have to find room, and bytes that can be had.

    With dynamic VRAM all weights have to, as those there count as free memory. What other models' weights give up on demand can be had,
    but not what ComfyUI leaves to other programs.
    """
    loaded = 0 if vae.patcher.is_dynamic() else vae.patcher.loaded_size()
    reserved = 0 if vae.device.type == "cpu" else comfy.model_management.extra_reserved_memory()
    return vae.patcher.model_size() - loaded, vae.patcher.get_free_memory(vae.device) - reserved


class RetryInLessMemory:
    """Repeats work that ran out of memory. Each saving stays, so that the work that follows does not fail there again.

    Args:
        what: the work, for the log. savings: makes the next saving when it is advanced, and yields it in words.
        advice: what the user can do when none is left.
    """

    def __init__(self, what: str, savings: Iterator[str], advice: str):
        self._what, self._savings, self._advice = what, savings, advice

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of the work.

        Raises:
            torch.OutOfMemoryError: no saving is left.
        """
        while True:
            try:
                return work()
            except OOM_ERRORS as error:
                comfy.model_management.raise_non_oom(error)
                reason = str(error).partition("\n")[0]
            self._save_memory(reason)  # behind the except clause, where the error no longer keeps the tensors of the failed work alive

    def _save_memory(self, reason: str) -> None:
        comfy.model_management.soft_empty_cache()
        saving = next(self._savings, None)
        if saving is None:
            raise comfy.model_management.OOM_EXCEPTION(
                f"The GPU ran out of memory in {self._what}, and there is no way left to use less. {self._advice} ({reason})"
            )
        comfy.model_management.soft_empty_cache()
        logger.warning("the GPU ran out of memory in %s (%s); once more, %s", self._what, reason, saving)


def run_encoder(what: str, encoder: Any, work: Callable[[], Result], advice: str) -> Result:
    """The result of an encoder of text or sound; where memory runs out it gets the GPU to itself.

    Args:
        what: the work, for the log. encoder: a CLIP or AUDIO_ENCODER, with its `patcher`.
        advice: what the user can do if that is too little.
    Raises:
        torch.OutOfMemoryError: that was not enough.
    """

    def savings() -> Iterator[str]:
        take_all_others_off_gpu(encoder.patcher)
        yield "with everything else off the GPU"

    return RetryInLessMemory(what, savings(), advice).run(work)

"""Which models stay on the GPU while the transformer samples; the GPU and ComfyUI's list of loaded models are stand-ins."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import OPTIONS

pytestmark = pytest.mark.comfy
GPU, OTHER_GPU = torch.device("cuda", 0), torch.device("cuda", 1)


class Patcher:
    def __init__(self, model=None, device=GPU, stays=False, copies=()):
        self.copies = list(copies)
        self.model = SimpleNamespace(disable_offload=stays) if model is None else model
        self.load_device = device

    def is_clone(self, other):
        return self.model is other.model

    def get_additional_models_with_key(self, key):
        return self.copies


@pytest.fixture
def loaded(bridge, monkeypatch):
    """Put patchers on the list; the fixture returns what is kept when everything else is freed, or None if nothing was."""
    import comfy.model_management

    freed = []
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda size, device, keep: freed.append((size, device, keep)))

    def kept_of(patchers, *needed):
        models = [SimpleNamespace(model=patcher, device=GPU if patcher is None else patcher.load_device) for patcher in patchers]
        monkeypatch.setattr(comfy.model_management, "current_loaded_models", models)
        bridge.take_others_off_gpu(*needed)
        if not freed:
            return None
        (size, device, keep), *more = freed
        assert not more
        assert (size, device) == (1e30, needed[0].load_device)
        return [model.model for model in keep]

    return kept_of


def test_encoders_leave_and_transformer_and_vae_stay(loaded, caplog):
    transformer, vae, text, audio = (Patcher() for _ in range(4))
    clone = Patcher(transformer.model)
    with caplog.at_level("INFO"):
        assert loaded([text, clone, audio, vae], transformer, vae) == [clone, vae]
    assert "off the GPU before sampling" in caplog.text


def test_every_gpu_of_a_model_is_freed(bridge, monkeypatch):
    import comfy.model_management

    copy, text, far = Patcher(device=OTHER_GPU), Patcher(), Patcher(device=OTHER_GPU)
    transformer = Patcher(copies=[copy])
    loaded = [SimpleNamespace(model=patcher, device=patcher.load_device) for patcher in (transformer, text, copy, far)]
    freed = {}
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", loaded)
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda size, device, keep: freed.update({device: keep}))
    bridge.take_others_off_gpu(transformer)
    leaving = {device: [entry.model for entry in loaded if entry not in keep] for device, keep in freed.items()}
    assert leaving == {GPU: [text], OTHER_GPU: [far]}


def test_models_that_are_not_to_be_offloaded_stay(loaded):
    transformer, text = Patcher(), Patcher(stays=True)
    audio = Patcher()
    assert loaded([text, audio, transformer], transformer) == [text, transformer]


def test_other_devices_and_dead_entries_are_left_alone(loaded):
    transformer, elsewhere = Patcher(), Patcher(device=OTHER_GPU)
    assert loaded([None, elsewhere, transformer, Patcher()], transformer) == [None, elsewhere, transformer]


def test_nothing_is_freed_when_nothing_has_to_leave(loaded, caplog):
    transformer = Patcher()
    assert loaded([transformer], transformer) is None
    assert not caplog.text


def test_nothing_leaves_main_memory(loaded):
    transformer, text = Patcher(device=torch.device("cpu")), Patcher(device=torch.device("cpu"))
    assert loaded([text, transformer], transformer) is None


@pytest.mark.parametrize("offload", [True, False])
def test_offload_switch_reaches_the_patchers_and_their_clones(bridge, checkpoint, offload):
    patcher = bridge.load_diffusion_model(checkpoint, OPTIONS, offload=offload)
    assert bridge.memory.stays_on_gpu(patcher.clone()) is not offload


def test_whole_model_is_loaded_only_if_it_must_stay(bridge, monkeypatch):
    import comfy.model_management

    calls = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **options: calls.append((models, options)))
    for stays in (False, True):
        patcher = Patcher(stays=stays)
        patcher.memory_required = lambda shape: 1000 * shape[0]
        bridge.memory.load_all_weights(patcher, (1, 16, 4, 8, 8))
    assert calls == [([patcher], {"memory_required": 2000, "force_full_load": True})]


@pytest.mark.parametrize(("limit", "error", "attempts"), [(-1, None, 0), (1, None, 1), (1, RuntimeError("CUDA error: out of memory"), 1)])
def test_memory_is_pinned_where_comfyui_does_and_the_system_can(bridge, monkeypatch, limit, error, attempts):
    import comfy.model_management

    tried = []

    def pin(tensor):
        tried.append(tensor)
        if error is not None:
            raise error
        return tensor

    monkeypatch.setattr(comfy.model_management, "MAX_PINNED_MEMORY", limit)  # what --disable-pinned-memory leaves is -1
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    values = torch.arange(6.0)
    assert torch.equal(bridge.memory.in_host_memory(values), values)
    assert len(tried) == attempts


class OnTheGpu(torch.Tensor):
    """Takes any device for the CPU, and notes what is asked of it."""

    def to(self, device, non_blocking):
        return self.as_subclass(torch.Tensor), device, non_blocking


def test_pictures_reach_the_gpu_without_pinned_memory(bridge, monkeypatch):
    memory_module = pack_module("wan_s2v_model.comfy_bridge.memory")

    def refuse(*_):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(memory_module.comfy.model_management, "MAX_PINNED_MEMORY", 1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    values, device, _ = memory_module.bring_over(torch.arange(6.0).as_subclass(OnTheGpu), GPU)
    assert (values.tolist(), device) == ([0, 1, 2, 3, 4, 5], GPU)


def test_results_come_out_in_order_where_pinned_memory_ends(bridge, monkeypatch):
    memory_module = pack_module("wan_s2v_model.comfy_bridge.memory")
    empty, made = torch.empty, []

    def limited(*size, pin_memory, **options):
        made.append(1)
        if len(made) > 2:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*size, **options)

    monkeypatch.setattr(memory_module.comfy.model_management, "MAX_PINNED_MEMORY", 1)
    monkeypatch.setattr(memory_module.torch.cuda, "Stream", StandInStream)
    monkeypatch.setattr(memory_module.torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(memory_module.torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(memory_module.torch, "empty", limited)
    outbox, got = memory_module.Outbox(torch.device("cuda")), []
    for number in range(5):
        outbox.put(torch.full((2,), float(number)), lambda part: got.append(part[0].item()))
    outbox.empty()
    assert got == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(made) == 3


class StandInStream:
    """Notes what is asked of a GPU's stream; a copy is there as soon as its event was waited for."""

    def __init__(self, *_):
        self.waits, self.events = 0, []

    def wait_stream(self, other):
        self.waits += 1

    def record_event(self):
        event = SimpleNamespace(synchronize=lambda: self.events.append(event))
        return event


def test_results_come_out_in_order_while_the_next_one_is_computed(bridge, monkeypatch):
    """The CPU waits for the copy of each but the last result when the next one is queued, never for all that the GPU has to do."""
    memory_module = pack_module("wan_s2v_model.comfy_bridge.memory")
    cuda, empty = memory_module.torch.cuda, torch.empty
    monkeypatch.setattr(memory_module.comfy.model_management, "MAX_PINNED_MEMORY", 1)
    monkeypatch.setattr(cuda, "Stream", StandInStream)
    monkeypatch.setattr(cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(memory_module.torch, "empty", lambda *size, pin_memory, **options: empty(*size, **options))
    outbox, got = memory_module.Outbox(torch.device("cuda")), []
    for number in range(5):
        outbox.put(torch.full((2,), float(number)), lambda part: got.append(part[0].item()))
        assert got == [float(earlier) for earlier in range(number)]
        assert len(outbox._stream.events) == number
    outbox.empty()
    assert got == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert outbox._stream.waits == 5

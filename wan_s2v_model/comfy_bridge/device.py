"""What the device can do and how much memory can be had there, and what a MODEL needs of it."""

from dataclasses import replace

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from ..conditioning.plan import Plan
from ..cost.cards import Modes, host_rates, measured_rates
from ..cost.estimate import Job, ModelFacts, num_parameters
from ..cost.live import LiveWork, choose_placement
from ..cost.requirements import DeviceFacts, require_fit
from ..kernels.linears import EXACT
from ..kernels.triton_works import kernels_work
from ..sampling.pipeline import deal_steps
from ..transformer.blocks import FLOAT8_BEYOND
from ..transformer.config import S2V_14B
from ..transformer.rings import Placement
from .gpus import device_name, gpus_of, is_on_host, other_gpus, product_rate
from .kernels import SAGES, pick_attention, pick_linears, wants_float8_attention
from .memory import stays_on_gpu
from .model import PRECISIONS, S2VModelConfig, forward_of, with_s2v_forward
from .sampling import ClipSampler


def device_facts(model: comfy.model_patcher.ModelPatcher, vae: comfy.sd.VAE) -> DeviceFacts:
    """The device of a MODEL with our forward: its speed in the dtype and with the kernels of the MODEL, and its free memory."""
    device, dtype, forward = model.load_device, model.model.get_dtype_inference(), forward_of(model)
    linears = pick_linears(forward.speed, device, dtype)
    attention = pick_attention(forward.attention, device, wants_float8_attention(forward.speed))
    rounding = {"float8_attention": hasattr(attention, FLOAT8_BEYOND), "sage": attention in SAGES}
    modes = Modes(vae_value_bytes(vae), float8_linears=linears is not EXACT, **rounding)
    names = [device_name(patcher.load_device) for patcher in gpus_of(model)]
    return replace(_device_facts(device, dtype, modes), name=_in_words(names))


def _in_words(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{len(names)} GPUs like {names[0]}" if len({*names}) == 1 else ", ".join(names)


def _device_facts(device: torch.device, dtype: torch.dtype, modes: Modes) -> DeviceFacts:
    is_host, name, rate = is_on_host(device), device_name(device), product_rate(device, dtype)
    return DeviceFacts(
        name=name,
        free_bytes=obtainable_memory(device),
        host_free_bytes=comfy.model_management.get_free_memory(torch.device("cpu")),
        rates=host_rates(rate) if is_host else measured_rates(name, rate, modes),
        is_host=is_host,
        is_measured=not getattr(comfy.model_management, "directml_enabled", False),  # for DirectML it says 1 GB, whatever there is
    )


def model_facts(model: comfy.model_patcher.ModelPatcher) -> ModelFacts:
    """What a MODEL with our forward needs; its weights count as they are stored."""
    transformer = forward_of(model).transformer
    dtype = model.model.get_dtype_inference()
    is_host, weights, copies = is_on_host(model.load_device), model.model_size(), gpus_of(model)
    return ModelFacts(
        config=transformer.config,
        weights_bytes=weights,
        value_bytes=dtype.itemsize,
        residual_bytes=(transformer.residual_dtype or dtype).itemsize,
        is_resident=is_host or stays_on_gpu(model) or model.offload_device == model.load_device,
        is_file_backed=model.is_dynamic(),
        held_bytes=0 if model.is_dynamic() else sum(weights - (0 if is_host else copy.loaded_size()) for copy in copies),
        has_kernels=kernels_work(model.load_device),
        copies=len(copies),
    )


def assumed_facts(vae: comfy.sd.VAE, num_gpus: int = 1) -> tuple[ModelFacts, DeviceFacts]:
    """The 14B model in bf16 as our loader would load it here, for so many GPUs, and the device."""
    device, supported = comfy.model_management.get_torch_device(), S2VModelConfig.supported_inference_dtypes
    count, is_host = num_parameters(S2V_14B), is_on_host(device)
    stored = comfy.model_management.unet_dtype(model_params=count, supported_dtypes=supported, weight_dtype=torch.bfloat16)
    dtype = comfy.model_management.unet_manual_cast(stored, device, supported) or stored
    model = ModelFacts(
        config=S2V_14B,
        weights_bytes=count * stored.itemsize,
        value_bytes=dtype.itemsize,
        residual_bytes=(PRECISIONS["official"] or dtype).itemsize,
        is_resident=is_host or comfy.model_management.unet_offload_device() == device,
        held_bytes=_loaded_bytes() if is_host else 0,
        has_kernels=kernels_work(device),
        copies=num_gpus,
    )
    facts = _device_facts(device, dtype, Modes(vae_value_bytes(vae)))
    return model, replace(facts, name=_in_words([facts.name, *map(device_name, other_gpus(num_gpus))]))


def require_memory(sample: ClipSampler, plan: Plan, first_clip: int, vae: comfy.sd.VAE, disk_bytes: float = 0) -> None:
    """Log what the clips of a plan from `first_clip` on cost; `disk_bytes` is what they take on the disk.

    Raises:
        ValueError: they clearly do not fit.
    """
    job = Job(
        plan.timeline,
        plan.height,
        plan.width,
        steps=sample.num_steps,
        model_calls=sample.calls_per_step,
        first_clip=first_clip,
        vae_value_bytes=vae_value_bytes(vae),
        vae_warmup=sample.settings.vae_warmup,
        conditionings=sample.num_conditionings,
        disk_bytes=disk_bytes,
        work=sum(sample.work_of_steps) / sample.num_steps,
    )
    require_fit(job, model_facts(sample.model), device_facts(sample.model, vae))


def place_rings(model: comfy.model_patcher.ModelPatcher, vae: comfy.sd.VAE, work: LiveWork) -> Placement:
    """Where the rings of a live video find room on the devices of any MODEL with Wan S2V weights; logs what the video costs.

    Raises:
        ValueError: there is none.
    """
    model = with_s2v_forward(model)
    dealt = tuple(map(len, deal_steps(work.steps, len(gpus_of(model)))))
    return choose_placement(replace(work, vae_value_bytes=vae_value_bytes(vae), dealt=dealt), model_facts(model), device_facts(model, vae))


def _loaded_bytes() -> int:
    """Main memory of the models that ComfyUI counts as loaded; entries of models that are gone stay in its list for a while."""
    loaded = comfy.model_management.current_loaded_models
    return sum(entry.model_memory() for entry in loaded if entry.model is not None)


def vae_value_bytes(vae: comfy.sd.VAE) -> int:
    """Size of a value of the VAE: 2 or 4."""
    return vae.vae_dtype.itemsize


def obtainable_memory(device: torch.device) -> float:
    """Bytes that are free on a device, or would be if ComfyUI took off all models that it has put there."""
    free = comfy.model_management.get_free_memory(device)
    if is_on_host(device):
        return free
    loaded = (item.model for item in comfy.model_management.current_loaded_models if item.device == device)
    return free + sum(model.loaded_size() for model in loaded if model is not None)

"""What the doctor says of a machine: facts in, one finding per topic out. Looks at nothing itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..comfyui.machine import Machine
from .finding import GB, OK, PROBLEM, WARNING, Finding
from .models import ModelFound, model_findings

try:
    from ...wan_s2v_model.comfyui_version import OLDEST_COMFYUI, is_too_old
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.comfyui_version import OLDEST_COMFYUI, is_too_old

OLDEST_PYTHON = (3, 10)
TORCHVISION_OFFSET = 15  # torch 2.11 belongs to torchvision 0.26
BF16_CAPABILITY = (8, 0)
CUDNN_CAPABILITY = (9, 0)  # from here on our `attention: auto` tries cuDNN first, on HOPPER behind FlashAttention 3
HOPPER, FLASH3 = 9, "fa3_fwd_interface"
FRAMES_GB = 5.0  # free disk that some minutes of video need
REINSTALL = "Install the three of one release for one CUDA version, as pytorch.org's install command does."
OTHER_DEVICES = {  # by PyTorch's name: in words, and what to do there
    "mps": ("Apple's GPU", "Take bf16 or GGUF files: it has no 8-bit floats."),
    "xpu": ("Intel's GPU", "Nothing to do if it works."),
    "privateuseone": (
        "DirectML",
        "Its free memory is not known, so nothing is refused in advance. A build of PyTorch for the GPU is much faster.",
    ),
}
NO_GPU = {  # by Python's name of the system
    "darwin": "PyTorch needs Apple silicon and macOS 14 for the GPU; {torch} is installed.",
    "win32": "NVIDIA: check the driver (nvidia-smi) and that {torch} is a CUDA build. AMD, Intel: take ComfyUI's portable build for them.",
    "linux": "NVIDIA: check the driver (nvidia-smi) and that {torch} is a CUDA build. AMD: it has to be a ROCm build. Intel: an XPU build.",
}
ATTENTION_NAMES = {
    "attention_pytorch": "PyTorch",
    "attention_sage": "SageAttention (not exact)",
    "attention3_sage": "SageAttention 3 in 4 bits (not exact)",
    "attention_comfy_kitchen_int8": "comfy-kitchen in int8 (not exact)",
    "attention_flash": "flash_attn",
    "attention_xformers": "xformers",
    "attention_split": "split (slow)",
    "attention_sub_quad": "sub-quadratic (slow)",
    "attention_basic": "basic (slow)",
}


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_bytes: int
    capability: tuple[int, int] | None = None  # None unless NVIDIA
    driver: str = ""


@dataclass(frozen=True)
class Link:
    """From one GPU to the next: whether past main memory, and whether what is copied is there."""

    is_direct: bool
    arrives: bool
    bytes_per_s: float


@dataclass(frozen=True)
class TorchFacts:
    """Versions are with their build, e.g. 2.11.0+cu130. `errors`: what importing a package said, by package."""

    version: str = ""
    torchvision: str = ""
    torchaudio: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()  # between them
    accelerator: str = ""  # cuda, mps, xpu or none
    kernels: tuple[str, ...] = ()  # attention kernels of PyTorch itself
    packages: tuple[str, ...] = ()  # attention packages that can be imported
    broken: Mapping[str, str] = field(default_factory=dict)  # attention packages that cannot, with the reason
    triton: str = ""  # its version
    has_kitchen: bool = False  # comfy-kitchen has attention in int8 for the first GPU
    system: str = ""  # sys.platform


@dataclass(frozen=True)
class RuntimeFacts:
    """What ComfyUI decides when it starts.

    Attributes:
        dynamic: with dynamic VRAM. why: ComfyUI's own words if it wanted to and could not.
        device: PyTorch's type of the device that computes. device_name: in ComfyUI's words.
    """

    dynamic: bool = True
    why: str = ""
    device: str = "cuda"
    device_name: str = ""
    vram_state: str = "NORMAL_VRAM"
    attention: str = "attention_pytorch"
    pinned_bytes: int = 0


@dataclass(frozen=True)
class ServerFacts:
    """A running ComfyUI."""

    url: str
    error: str = ""
    version: str = ""
    python: str = ""
    flags: tuple[str, ...] = ()
    has_pack: bool = True
    machine: Machine | None = None


@dataclass(frozen=True)
class Facts:
    """Everything the doctor knows; None is what could not be found out.

    Attributes:
        comfyui, base: folders of ComfyUI's program, and of its models and output.
        models: by part; None where no models folder is known.
        free_bytes: free disk by folder.
        probe_error: why `runtime` or `torch` is None.
        pack_nodes: number of nodes that ComfyUI gets from this pack.
    """

    python: str
    comfyui: str | None = None
    base: str = ""
    comfyui_version: str = ""
    comfyui_error: str = ""
    torch: TorchFacts | None = None
    runtime: RuntimeFacts | None = None
    ram_bytes: int = 0
    models: Mapping[str, tuple[ModelFound, ...]] | None = None
    models_error: str = ""
    free_bytes: Mapping[str, int] = field(default_factory=dict)
    pack_nodes: int | None = None
    probe_error: str = ""
    system: str = "linux"  # Python's name for it
    server: ServerFacts | None = None


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order of the report."""
    checks: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
        check_comfyui,
        check_server,
        check_python,
        check_torch,
        check_gpu,
        check_links,
        check_memory_mode,
        check_ram,
        check_attention,
        check_models,
        check_disk,
        check_pack,
    )
    return [finding for check in checks for finding in check(facts)]


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.11.0+cu130 -> (2, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+\-a-z]", version)[0]))


def build(version: str) -> str:
    """The build of a version: 2.11.0+cu130 -> cu130."""
    return version.partition("+")[2]


def check_comfyui(facts: Facts) -> Iterator[Finding]:
    topic = "ComfyUI"
    if facts.comfyui is None and facts.base:
        advice = "Start ComfyUI, such as its Desktop app, and run the doctor again; or give the folder of its main.py with --comfyui."
        yield Finding(WARNING, topic, f"its folders are in {facts.base}, its program was not found", advice)
    elif facts.comfyui is None:
        advice = "Give its folder with --comfyui, or set COMFYUI_PATH."
        yield Finding(PROBLEM, topic, facts.comfyui_error or "not found", advice)
    elif not facts.comfyui_version:
        yield Finding(WARNING, topic, f"unknown version in {facts.comfyui}", f"This pack needs {OLDEST_COMFYUI} or newer.")
    elif is_too_old(facts.comfyui_version):
        yield Finding(PROBLEM, topic, f"{facts.comfyui_version} in {facts.comfyui}", f"Update it to {OLDEST_COMFYUI} or newer.")
    else:
        yield Finding(OK, topic, f"{facts.comfyui_version} in {facts.comfyui}")


def check_server(facts: Facts) -> Iterator[Finding]:
    server = facts.server
    if server is None:
        return
    topic = "Server"
    if server.error:
        yield Finding(PROBLEM, topic, f"{server.url}: {server.error}", "Start ComfyUI, or correct --server.")
    elif not server.has_pack:
        advice = "Put this pack into the custom_nodes folder of that ComfyUI and restart it; its log says why a pack was not loaded."
        yield Finding(PROBLEM, topic, f"{server.url} (ComfyUI {server.version}) has no Wan S2V nodes", advice)
    elif server.python and server.python.split()[0] != facts.python.split()[0]:
        advice = "Run the doctor with the Python that runs ComfyUI; the lines below are about another one."
        yield Finding(WARNING, topic, f"{server.url} runs Python {server.python.split()[0]}, this is {facts.python.split()[0]}", advice)
    else:
        flags = f", started with {' '.join(server.flags)}" if server.flags else ""
        yield Finding(OK, topic, f"{server.url}: ComfyUI {server.version} with this pack{flags}")


def check_python(facts: Facts) -> Iterator[Finding]:
    old = numbers(facts.python) < OLDEST_PYTHON
    advice = f"Use Python {_dotted(OLDEST_PYTHON)} or newer." if old else ""
    yield Finding(PROBLEM if old else OK, "Python", facts.python, advice)


def check_torch(facts: Facts) -> Iterator[Finding]:
    topic, torch = "PyTorch", facts.torch
    if torch is None:
        yield Finding(PROBLEM, topic, facts.probe_error or "not found", "Run the doctor with the Python that runs ComfyUI.")
        return
    if "torch" in torch.errors:
        advice = "Run the doctor with the Python that runs ComfyUI, or install ComfyUI's requirements.txt."
        yield Finding(PROBLEM, topic, f"torch cannot be imported: {torch.errors['torch']}", advice)
        return
    for package, error in torch.errors.items():
        yield Finding(PROBLEM, topic, f"{package} cannot be imported beside torch {torch.version}: {error}", REINSTALL)
    if torch.errors:
        return
    trio = {"torch": torch.version, "torchvision": torch.torchvision, "torchaudio": torch.torchaudio}
    text = ", ".join(f"{package} {version}" for package, version in trio.items())
    if mismatch := trio_mismatch(torch):
        yield Finding(PROBLEM, topic, f"{text}: {mismatch}", REINSTALL)
    else:
        yield Finding(OK, topic, text)


def trio_mismatch(torch: TorchFacts) -> str:
    """Say what does not fit between torch, torchvision and torchaudio, "" if they fit."""
    builds = {build(version) for version in (torch.version, torch.torchvision, torch.torchaudio)} - {""}
    if len(builds) > 1:
        return f"builds for different platforms ({', '.join(sorted(builds))})"
    major, minor = numbers(torch.version)[:2]
    if major == 2 and numbers(torch.torchvision)[:2] != (0, minor + TORCHVISION_OFFSET):
        return f"torch {major}.{minor} needs torchvision 0.{minor + TORCHVISION_OFFSET}"
    if numbers(torch.torchaudio)[:2] != (major, minor):
        return f"torch {major}.{minor} needs torchaudio {major}.{minor}"
    return ""


def check_gpu(facts: Facts) -> Iterator[Finding]:
    topic = "GPU"
    if facts.torch is None or not facts.torch.version:
        return
    if not facts.torch.gpus:
        yield _other_device(facts)
    for gpu in facts.torch.gpus:
        text = f"{gpu.name}, {gpu.memory_bytes / GB:.1f} GB"
        if gpu.capability is None:
            yield Finding(WARNING, topic, f"{text}; not NVIDIA", "This pack was tested on NVIDIA and CPU only. Nothing to do if it works.")
            continue
        text += f", compute capability {_dotted(gpu.capability)}" + (f", driver {gpu.driver}" if gpu.driver else "")
        if gpu.capability < BF16_CAPABILITY:
            yield Finding(WARNING, topic, text, "It cannot compute in bfloat16 in hardware; ComfyUI takes a slower type.")
        else:
            yield Finding(OK, topic, text)


def _other_device(facts: Facts) -> Finding:
    """What computes where PyTorch's CUDA has nothing."""
    device = facts.runtime.device if facts.runtime else facts.torch.accelerator if facts.torch else ""
    name = facts.runtime.device_name if facts.runtime else device
    if device in OTHER_DEVICES:
        words, advice = OTHER_DEVICES[device]
        return Finding(WARNING, "GPU", f"{words} ({name}); this pack was tested on NVIDIA and CPU only", advice)
    build = f"torch {facts.torch.version}" if facts.torch else "torch"
    advice = NO_GPU.get(facts.system, NO_GPU["linux"]).format(torch=build)
    return Finding(WARNING, "GPU", "none that PyTorch can use; a CPU is for trying things out", advice)


def check_links(facts: Facts) -> Iterator[Finding]:
    links = facts.torch.links if facts.torch else ()
    if not links:
        return
    way = "directly" if all(link.is_direct for link in links) else "through main memory"
    text = f"{len(links)} reach each other {way}, {min(link.bytes_per_s for link in links) / GB:.0f} GB/s"
    if all(link.arrives for link in links):
        yield Finding(OK, "Several GPUs", f"{text}; ComfyUI's MultiGPU CFG Split in front of Sample Video lets all work on one video")
    else:
        advice = "Update the driver, or switch IOMMU or ACS off in the BIOS. Until then copies go through main memory."
        yield Finding(WARNING, "Several GPUs", f"{text}, but what is copied gets lost", advice)


def check_memory_mode(facts: Facts) -> Iterator[Finding]:
    topic, runtime = "Memory mode", facts.runtime
    if runtime is None or facts.torch is None or not facts.torch.gpus:
        return
    if runtime.dynamic:
        yield Finding(OK, topic, "dynamic VRAM")
        return
    reason = runtime.why or "ComfyUI leaves it off for this device, system or flags"
    advice = "Put that right." if runtime.why else "Nothing to do if the memory is enough; ComfyUI's flag --enable-dynamic-vram tries it."
    yield Finding(WARNING, topic, f"older memory management ({runtime.vram_state}); dynamic VRAM is off: {reason}", advice)


def check_ram(facts: Facts) -> Iterator[Finding]:
    if not facts.ram_bytes:
        return
    pinned = f", up to {facts.runtime.pinned_bytes / GB:.0f} GB of it pinned" if facts.runtime and facts.runtime.pinned_bytes > 0 else ""
    text = f"{facts.ram_bytes / GB:.0f} GB{pinned}"
    models = [model for model in (facts.models or {}).get("model", ()) if not model.problem]
    smallest = min((model.size_bytes for model in models), default=0)
    if smallest > facts.ram_bytes:
        advice = "Parts of it may have to be read from the disk in every step. Use the fp8 file, or add memory."
        yield Finding(WARNING, "RAM", f"{text}; the model has {smallest / GB:.1f} GB", advice)
    else:
        yield Finding(OK, "RAM", text)


def check_attention(facts: Facts) -> Iterator[Finding]:
    if facts.torch is None or not facts.torch.gpus or facts.runtime is None:
        return
    for package, error in facts.torch.broken.items():
        advice = f"Uninstall {package}, or install a build for torch {facts.torch.version}."
        yield Finding(WARNING, "Attention", f"{package} is installed but cannot be imported: {error}", advice)
    chosen = ATTENTION_NAMES.get(facts.runtime.attention, facts.runtime.attention)
    if facts.runtime.attention == "attention_pytorch":
        capability = facts.torch.gpus[0].capability
        order = "cuDNN first" if capability and capability >= CUDNN_CAPABILITY else "flash first"
        if capability and capability[0] == HOPPER and FLASH3 in facts.torch.packages:
            order = "in this pack FlashAttention 3 first"
        chosen += f", {order} (of {', '.join(facts.torch.kernels)})"
    also = f"; also installed: {', '.join(facts.torch.packages)}" if facts.torch.packages else ""
    advice = "Start ComfyUI with --use-pytorch-cross-attention." if "slow" in chosen else ""
    yield Finding(WARNING if advice else OK, "Attention", chosen + also, advice)


def check_models(facts: Facts) -> Iterator[Finding]:
    if facts.models is None:
        yield Finding(PROBLEM, "Models", "no models folder is known", facts.models_error)
        return
    yield from model_findings(facts.models)


def check_disk(facts: Facts) -> Iterator[Finding]:
    if not facts.free_bytes:
        return
    text = ", ".join(f"{free / GB:.0f} GB free in {folder}" for folder, free in facts.free_bytes.items())
    if min(facts.free_bytes.values()) / GB < FRAMES_GB:
        yield Finding(WARNING, "Disk", text, "Make room: finished frames need 1.2 GB per minute of video at 832x480 until the run ends.")
    else:
        yield Finding(OK, "Disk", text)


def check_pack(facts: Facts) -> Iterator[Finding]:
    if facts.comfyui is None:
        return
    if facts.pack_nodes:
        yield Finding(OK, "This pack", f"{facts.pack_nodes} nodes load")
    else:
        advice = "Run the doctor with the Python that runs ComfyUI. If this is it, install ComfyUI's requirements.txt again."
        yield Finding(PROBLEM, "This pack", f"does not load in ComfyUI: {facts.probe_error or 'no reason given'}", advice)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

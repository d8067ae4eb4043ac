"""What the loader's choices of speed do on this card, what they lack, and the gain that can be expected. Looks at nothing itself."""

from __future__ import annotations

from collections.abc import Iterator

from .checks import FLASH3, HOPPER, Facts, TorchFacts, numbers
from .finding import OK, WARNING, Finding

FP8_CAPABILITY = (8, 9)
# Calculated shares of the time of a forward pass at 832x480 by compute capability: fp8 linears, sage, both (cost/choices.py).
SHARES: dict[tuple[int, int], tuple[float, float, float]] = {
    (8, 6): (1.0, 0.76, 0.76),
    (8, 9): (0.79, 0.7, 0.49),
    (12, 0): (0.81, 0.67, 0.48),
}
TRITON_OF_TORCH: dict[tuple[int, ...], str] = {(2, 7): "3.3", (2, 8): "3.4", (2, 9): "3.5", (2, 10): "3.6", (2, 11): "3.6"}
WITH_COMFYUI = "with the Python that runs ComfyUI"
SAGE_PACKAGES = {"sageattention": "SageAttention", "sageattn3": "SageAttention 3 (4 bits)"}
INSTALL_SAGE = (
    f"Install it {WITH_COMFYUI}: pip install sageattention (version 1, needs Triton). The figure of GeForce 40 and 50 is for version 2, "
    "which comes as source from its authors, and in wheels for Windows from others."
)


def speed_findings(facts: Facts) -> Iterator[Finding]:
    """One finding for the kernels and one for each choice, of the first NVIDIA GPU."""
    torch = facts.torch
    if torch is None or not torch.gpus or torch.gpus[0].capability is None:
        return
    yield _triton(torch)
    yield _fp8(torch, torch.gpus[0].capability)
    yield _sage(torch, torch.gpus[0].capability)


def _triton(torch: TorchFacts) -> Finding:
    if torch.triton:
        return Finding(OK, "Triton", torch.triton)
    version = TRITON_OF_TORCH.get(numbers(torch.version)[:2])
    package = "triton-windows" if torch.system == "win32" else "triton"
    pinned = f'"{package}=={version}.*"' if version else package
    text = "not installed: a forward pass takes about a third longer (measured on an H100)"
    return Finding(WARNING, "Triton", text, f"{WITH_COMFYUI.capitalize()}: pip install {pinned}")


def _fp8(torch: TorchFacts, capability: tuple[int, int]) -> Finding:
    topic = "speed: fp8"
    if capability < FP8_CAPABILITY:
        return Finding(OK, topic, "no effect on this GPU, which has no fp8 (GeForce 40, H100 and newer have)")
    if capability[0] == HOPPER:
        advice = "" if FLASH3 in torch.packages else f"For the attention, too, {WITH_COMFYUI}: pip install fa3-fwd"
        return Finding(OK, topic, "linear layers and attention 0.66 to 0.7 of the time (measured on H100 and H200, with fa3-fwd)", advice)
    return Finding(OK, topic, f"fp8 linears: {_share(capability, 0)}; the loader tests at first use whether it works")


def _sage(torch: TorchFacts, capability: tuple[int, int]) -> Finding:
    topic = "attention: sage"
    there = [name for package, name in SAGE_PACKAGES.items() if package in torch.packages]
    there += ["comfy-kitchen in int8"] if torch.has_kitchen else []
    both = f", with fp8 linears {_share(capability, 2)}" if capability >= FP8_CAPABILITY and capability in SHARES else ""
    text = f"{', '.join(there) or 'not installed'}: {_share(capability, 1)}{both}"
    return Finding(OK, topic, text, "" if there else INSTALL_SAGE)


def _share(capability: tuple[int, int], choice: int) -> str:
    shares = SHARES.get(capability)
    return "gain not known on this GPU" if shares is None else f"{shares[choice]:g} of the time (calculated, not measured)"

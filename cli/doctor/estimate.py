"""What half a minute of speech takes on a machine. Needs PyTorch.

It is calculated: on this machine from the speed of a matrix product, on a server from what the maker states of its card.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..comfyui.machine import Machine
from ..comfyui.speed import measured_here, stated
from .checks import Facts
from .finding import GB, OK, PROBLEM, WARNING, Finding

try:
    from ...wan_s2v_model.cost.cards import CARDS, calculated_rates
    from ...wan_s2v_model.cost.outlook import HEIGHT, SMALL_MODEL_BYTES, WAYS, WIDTH, half_minute
    from ...wan_s2v_model.time_text import rough_duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.cost.cards import CARDS, calculated_rates
    from wan_s2v_model.cost.outlook import HEIGHT, SMALL_MODEL_BYTES, WAYS, WIDTH, half_minute
    from wan_s2v_model.time_text import rough_duration

TIME, MEMORY = "Half a minute", "Needs"


def estimate_findings(facts: Facts) -> list[Finding]:
    """How long half a minute of speech takes, and whether the memory suffices, with the small model file."""
    machine = machine_in(facts)
    if machine is None or machine.is_host:
        return [
            Finding(WARNING, TIME, "no GPU to estimate for", "On a CPU it takes days. With --server, a ComfyUI with a GPU is looked at.")
        ]
    return [_time(machine, is_here=facts.server is None), *_memory(machine)]


def machine_in(facts: Facts) -> Machine | None:
    """The server's machine if there is a server, else this one's first GPU."""
    if facts.server is not None:
        return facts.server.machine
    if facts.torch is None or not facts.torch.gpus:
        return None
    gpu = facts.torch.gpus[0]
    return Machine(gpu.name, gpu.memory_bytes, facts.ram_bytes)


def _time(machine: Machine, *, is_here: bool) -> Finding:
    measured = measured_here(machine) if is_here else None
    rates = measured or stated(machine)
    if rates is None:
        advice = "Prepare Video measures it on the canvas, and shows the time before anything is made."
        return Finding(OK, TIME, f"the speed of {machine.device} is not known here", advice)
    times = "; ".join(f"{way.name} ({way.steps} steps) {rough_duration(half_minute(way, rates).seconds)}" for way in WAYS)
    basis = "from a product on this card" if measured else "from what its maker states"
    return Finding(OK, TIME, f"of speech at {WIDTH}x{HEIGHT} on {machine.device}: {times}; calculated {basis}")


def _memory(machine: Machine) -> Iterator[Finding]:
    cost = half_minute(WAYS[-1], calculated_rates(CARDS[0]))  # memory does not depend on the rates
    least, full = (f"{size / GB:.0f} GB" for size in (cost.least_device_bytes, cost.full_device_bytes))
    text = f"{least} of GPU memory at least, {full} to keep all weights there; {cost.host_bytes / GB:.0f} GB of RAM for full speed"
    if machine.device_bytes < cost.least_device_bytes:
        yield Finding(PROBLEM, MEMORY, text, f"{machine.device} has {machine.device_bytes / GB:.1f} GB. Make smaller videos.")
    elif machine.ram_bytes and machine.ram_bytes < cost.host_bytes:
        ram, file = (f"{size / GB:.0f} GB" for size in (machine.ram_bytes, SMALL_MODEL_BYTES))
        advice = f"There are {ram} of RAM: parts of the file of {file} are read from the disk in every step."
        yield Finding(WARNING, MEMORY, text, advice)
    else:
        yield Finding(OK, MEMORY, text)

"""What GPUs do in a stretch of time: busy and idle, kernel by kernel, from a profile."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

KERNELS_SHOWN, GAPS_SHOWN = 16, 8
NAME_LENGTH = 70


@dataclass
class Timeline:
    """Milliseconds on one GPU.

    Attributes:
        wall: from the first kernel to the end of the last. kernels: by name. copies: between GPUs, which run beside the kernels.
        gaps: when no kernel runs, by the name of the kernel that ends the gap.
    """

    wall: float = 0.0
    kernels: Counter = field(default_factory=Counter)
    copies: float = 0.0
    gaps: Counter = field(default_factory=Counter)


def record(work: Callable[[], object]) -> dict[int, Timeline]:
    """Run something under the profiler; a timeline for each GPU that had something to do."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
    events: dict[int, list] = {}
    for event in profiler.profiler.kineto_results.events():
        if "CUDA" in str(event.device_type()):
            events.setdefault(event.device_index(), []).append(event)
    return {device: timeline(found) for device, found in sorted(events.items())}


def timeline(events: list) -> Timeline:
    """One GPU's events, of all streams."""
    told = Timeline()
    kernels = sorted((event for event in events if "PtoP" not in event.name()), key=lambda event: event.start_ns())
    told.copies = sum(event.duration_ns() for event in events if "PtoP" in event.name()) / 1e6
    end = kernels[0].start_ns()
    for event in kernels:
        name = event.name()[:NAME_LENGTH]
        told.gaps[name] += max(0, event.start_ns() - end) / 1e6
        told.kernels[name] += event.duration_ns() / 1e6
        end = max(end, event.start_ns() + event.duration_ns())
    told.wall = (end - kernels[0].start_ns()) / 1e6
    return told


def print_timelines(title: str, ours: dict[int, Timeline], one: Timeline) -> None:
    """Busy and idle time of each GPU, and its kernels beside those of one GPU alone."""
    for device, told in ours.items():
        busy, idle = sum(told.kernels.values()), sum(told.gaps.values())
        print(f"\n{title}, GPU {device}: {told.wall:.0f} ms, kernels {busy:.0f} ms, idle {idle:.0f} ms, copies {told.copies:.0f} ms")
        for name, milliseconds in told.kernels.most_common(KERNELS_SHOWN):
            alone = one.kernels[name]
            share = f"{milliseconds / alone:.3f} of one GPU's {alone:.1f}" if alone else ""
            print(f"    {milliseconds:9.1f} ms  {name:{NAME_LENGTH}s}  {share}")
        for name, milliseconds in told.gaps.most_common(GAPS_SHOWN):
            print(f"    idle {milliseconds:6.1f} ms in front of {name}")

"""How several GPUs share the model calls of a step: guidance first, then the tokens of each call."""

from collections.abc import Sequence


def num_crews(num_gpus: int, num_calls: int) -> int:
    """How many calls are computed at once, each by an equal crew: the fastest way, of several the one with the smallest crews."""
    fitting = [count for count in range(1, num_gpus + 1) if num_gpus % count == 0 and count <= num_calls]
    return min(fitting, key=lambda count: (work(num_gpus, num_calls, count), -count), default=1)


def work(num_gpus: int, num_calls: int, crews: int) -> float:
    """How long so many calls take in so many crews, in calls of one GPU."""
    return -(-num_calls // crews) * crews / num_gpus


def work_of_step(num_gpus: int, num_calls: int) -> float:
    """How long a step of so many calls takes, in calls of one GPU."""
    return work(num_gpus, num_calls, num_crews(num_gpus, num_calls))


def describe(num_gpus: int, calls: Sequence[str]) -> str:
    """What the GPUs do in a step of these calls: 2 GPUs: prompt | negative. Empty for one GPU."""
    if num_gpus < 2:
        return ""
    crews = num_crews(num_gpus, len(calls))
    size = num_gpus // crews
    if crews == 1:
        return f"{num_gpus} GPUs on each model call"
    return f"{num_gpus} GPUs: {' | '.join(calls) if size == 1 and crews == len(calls) else f'{crews} x {size}'}"

"""How several GPUs share the model calls of a step: guidance first, then the tokens of each call, by the speed of each GPU."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import HEADS, KEYS

ALIKE = 0.03  # GPUs whose speeds differ by less get equal shares: equal inputs then give equal bits in every run
WORTH = 0.02  # of the time is what every further GPU has to save; else it is left out
SHARE_STEPS = 64  # shares of unlike GPUs are multiples of 1 / so many, as a measured speed differs from run to run
HIDDEN = 0.08  # of the computing time of a call in which keys and values travel unnoticed
SPLIT_NODE = "MultiGPU_WorkUnits"  # core's "MultiGPU CFG Split"
CAREFUL = 0.6  # of the speed that a slower GPU seems to have is counted on before it is measured


@dataclass(frozen=True)
class Call:
    """What a model call costs.

    Attributes:
        work: floating-point operations. sent: bytes of the keys and values of all tokens in all blocks.
        num_heads: of attention; 0 where heads cannot travel.
    """

    work: float = 1.0
    sent: float = 0.0
    num_heads: int = 0


ANY_CALL = Call()


@dataclass(frozen=True)
class Group:
    """GPUs that work on one model call together.

    Attributes:
        members: their numbers, the leader's first. shares: of the tokens, 1 in all. over: KEYS or HEADS, what they exchange.
    """

    members: tuple[int, ...]
    shares: tuple[float, ...]
    over: str = KEYS


Lost = Callable[[Group, Call], float]  # seconds of a call beyond the computing of its members


def seconds_of_step(
    groups: Sequence[Group], rates: Sequence[float], num_calls: int, call: Call = ANY_CALL, lost: Lost | None = None
) -> float:
    """How long so many calls take in these groups."""
    return -(-num_calls // len(groups)) * max(_seconds(group, rates, call, lost) for group in groups)


def divide(rates: Sequence[float], num_calls: int, call: Call = ANY_CALL, lost: Lost | None = None) -> tuple[Group, ...]:
    """The fastest way to compute the calls of a step.

    Of ways that are as fast: the one with the fewest GPUs, then the one with the smallest groups.

    Args:
        rates: floating-point operations per second of each GPU. lost: None for nothing.
    """

    def seconds(groups: tuple[Group, ...]) -> float:
        return seconds_of_step(groups, rates, num_calls, call, lost)

    ways = {groups: seconds(groups) for groups in _ways(rates, num_calls, call)}
    best = min(ways.values())
    good = [groups for groups, took in ways.items() if took * (1 - WORTH) <= best]
    return min(good, key=lambda groups: (_num_gpus(groups), round(ways[groups] / (best or 1), 6), -len(groups)))


def _ways(rates: Sequence[float], num_calls: int, call: Call) -> Iterator[tuple[Group, ...]]:
    """The fastest so many GPUs in so many groups, which exchange one or the other."""
    fastest = sorted(range(len(rates)), key=lambda gpu: -rates[gpu])
    for used in range(1, len(rates) + 1):
        for count in range(1, max(1, min(used, num_calls)) + 1):
            for over in (KEYS, HEADS):
                members = _dealt(sorted(fastest[:used]), rates, count)
                if over == KEYS or max(map(len, members)) <= call.num_heads:
                    yield tuple(Group(each, _shares([rates[gpu] for gpu in each]), over) for each in members)


def _dealt(gpus: Sequence[int], rates: Sequence[float], count: int) -> list[tuple[int, ...]]:
    """GPUs in groups that are as fast as each other, of neighbours where all are alike."""
    size, rest = divmod(len(gpus), count)
    if rest == 0 and _are_alike([rates[gpu] for gpu in gpus]):
        return [tuple(gpus[start : start + size]) for start in range(0, len(gpus), size)]
    groups: list[list[int]] = [[] for _ in range(count)]
    for gpu in sorted(gpus, key=lambda gpu: -rates[gpu]):
        min(groups, key=lambda group: sum(rates[member] for member in group)).append(gpu)
    return [tuple(sorted(group)) for group in groups]


def _shares(rates: Sequence[float]) -> tuple[float, ...]:
    """Of the tokens for members of these speeds; the fastest get what rounding leaves."""
    if _are_alike(rates):
        return (1 / len(rates),) * len(rates)
    steps = [max(1, int(SHARE_STEPS * rate / sum(rates))) for rate in rates]
    fast = [_are_alike((rate, max(rates))) for rate in rates]
    rest = SHARE_STEPS - sum(step for step, is_fast in zip(steps, fast, strict=True) if not is_fast)
    return tuple((rest / sum(fast) if is_fast else step) / SHARE_STEPS for step, is_fast in zip(steps, fast, strict=True))


def _are_alike(rates: Sequence[float]) -> bool:
    return min(rates) >= (1 - ALIKE) * max(rates)


def _num_gpus(groups: Sequence[Group]) -> int:
    return sum(len(group.members) for group in groups)


def _seconds(group: Group, rates: Sequence[float], call: Call, lost: Lost | None) -> float:
    """Of one call."""
    computing = max(share * call.work / rates[gpu] for gpu, share in zip(group.members, group.shares, strict=True))
    return computing + (0.0 if lost is None else lost(group, call))


class Speeds:
    """How fast each GPU computes and what their exchange costs: guessed at first, measured in the first steps, remembered for the next.

    Args:
        guesses: floating-point operations per second of each GPU, from something simpler than a model call.
        link: bytes per second from one GPU to another, by their numbers; asked only where it decides something.
    """

    def __init__(self, guesses: Sequence[float], link: Callable[[int, int], float] = lambda *_: math.inf):
        self.rates = [guess if guess >= (1 - ALIKE) * max(guesses) else CAREFUL * guess for guess in guesses]
        self._link = link
        self._measured: set[int] = set()
        self._lost: dict[tuple[tuple[int, ...], str], float] = {}  # seconds per byte that is sent
        self._divisions: dict[tuple[int, Call], tuple[Group, ...]] = {}

    def groups(self, num_calls: int, call: Call) -> tuple[Group, ...]:
        """How a step of so many calls is computed: as the last one, unless another way is clearly faster by now."""
        best, known = divide(self.rates, num_calls, call, self._lost_in), self._divisions.get((num_calls, call))
        if known is None or self._seconds(best, num_calls, call) < (1 - WORTH / 2) * self._seconds(known, num_calls, call):
            self._divisions[num_calls, call] = known = best
        return known

    def work_of_step(self, num_calls: int, call: Call) -> float:
        """How long a step of so many calls takes, in calls of the first GPU."""
        return self._seconds(self.groups(num_calls, call), num_calls, call) * self.rates[0] / call.work

    def _seconds(self, groups: Sequence[Group], num_calls: int, call: Call) -> float:
        return seconds_of_step(groups, self.rates, num_calls, call, self._lost_in)

    def learn(self, group: Group, call: Call, working: Sequence[float], whole: float) -> None:
        """Take in what a call showed.

        Args:
            working: seconds that each member computed. whole: seconds of the call, with the time in which members waited for each other.
        """
        measured = [share * call.work / max(each, 1e-9) for share, each in zip(group.shares, working, strict=True)]
        if not self._measured:  # the guesses about the others were as wrong
            factor = measured[0] / self.rates[group.members[0]]
            self.rates = [factor * rate for rate in self.rates]
        for gpu, rate in zip(group.members, measured, strict=True):
            self.rates[gpu] = (self.rates[gpu] + rate) / 2 if gpu in self._measured else rate
            self._measured.add(gpu)
        if len(group.members) > 1 and call.sent:
            self._lost[group.members, group.over] = max(0.0, whole - max(working)) / call.sent

    def _lost_in(self, group: Group, call: Call) -> float:
        known = self._lost.get((group.members, group.over))
        if known is not None:
            return known * call.sent
        return self._guessed_loss(group, call) if len(group.members) > 1 and call.sent else 0.0

    def _guessed_loss(self, group: Group, call: Call) -> float:
        """What takes longer than can be hidden behind computing, for the member that gets the most; nothing can among unlike GPUs."""
        neighbours = zip(group.members, (*group.members[1:], group.members[0]), strict=True)
        slowest = min(self._link(*pair) for pair in neighbours)
        hidden = HIDDEN * _seconds(group, self.rates, call, None) if _are_alike(group.shares) else 0.0
        if group.over == KEYS:
            return max(0.0, (1 - min(group.shares)) * call.sent / slowest - hidden)
        part = max(share * (1 - share) for share in group.shares) * call.sent / slowest  # of keys and values; queries and results: as many
        return part + max(0.0, part - hidden)


def describe(groups: Sequence[Group], calls: Sequence[str], num_gpus: int) -> str:
    """What the GPUs do in a step of these calls: 2 GPUs: prompt | negative. Empty for one GPU."""
    if num_gpus < 2:
        return ""
    used = _num_gpus(groups)
    left_out = f", {num_gpus - used} left out, with which a step would take longer" if used < num_gpus else ""
    return f"{used} GPU{'s' * (used > 1)}{_work(groups, calls, used)}{left_out}"


def _work(groups: Sequence[Group], calls: Sequence[str], used: int) -> str:
    sizes = {len(group.members) for group in groups}
    if used == 1:
        return ""
    if len(groups) == 1:
        shares = groups[0].shares
        unequal = "" if _are_alike(shares) else f": {' | '.join(f'{share:.0%}' for share in shares)}"
        return f" on each model call{unequal}"
    if sizes == {1} and len(groups) == len(calls):
        return f": {' | '.join(calls)}"
    if len(sizes) == 1:
        return f": {len(groups)} x {sizes.pop()}"
    return f" in groups of {', '.join(str(len(group.members)) for group in groups)}"


def most_gpus(prompt: Mapping[str, Any], plan_node: str) -> int:
    """How many GPUs the sampler of a plan may have, by a queued graph in API format: what core's node in front of it allows."""
    samplers = [node["inputs"] for node in prompt.values() if _source(node.get("inputs", {}).get("plan")) == plan_node]
    waiting = [source for inputs in samplers if (source := _source(inputs.get("model"))) is not None]
    seen = set(waiting)
    while waiting:
        node = prompt.get(waiting.pop(), {})
        inputs = node.get("inputs", {})
        if node.get("class_type") == SPLIT_NODE:
            return inputs["max_gpus"] if isinstance(inputs.get("max_gpus"), int) else 1
        new = {source for value in inputs.values() if (source := _source(value)) is not None} - seen
        seen |= new
        waiting += new
    return 1


def _source(link: Any) -> str | None:
    """The node that a link [node, output] comes from."""
    return str(link[0]) if isinstance(link, list) and len(link) == 2 else None

"""Several GPUs on one live video: while one makes the first steps of a block, the next makes the later steps of the block before.

A step of a block needs what the step before it has made of the block, and the ring of its own step, which the block before has filled.
Where every step is always made on the same GPU, only the unfinished block travels, and every GPU does what one alone would do, in the same
order: the result is the same. Each has the rings of its steps, and a sink. The first one also decodes, in the thread that asks for blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise, repeat

from torch import Tensor

from ..transformer.causal import CausalVideo
from ..transformer.crew import Crew, Member
from .live import LiveBlock, LiveSampler, OnStep, Told, Unfinished


def deal_steps(num_steps: int, num_gpus: int) -> tuple[range, ...]:
    """The steps of each GPU that is of use, in order. The first one, which decodes, has the fewest; none where each other one has one."""
    makers = min(num_gpus, num_steps)
    few, more = divmod(num_steps, makers)
    ends = list(accumulate((few + (maker >= makers - more) for maker in range(makers)), initial=0))
    return (range(0),) * (num_gpus > num_steps) + tuple(range(*ends_of) for ends_of in pairwise(ends))


def describe_steps(dealt: Sequence[range], num_gpus: int) -> str:
    """What the GPUs do: 2 GPUs: steps 1-2, decoding | steps 3-4. Empty for one GPU."""
    if num_gpus < 2:
        return ""
    work = [f"step{'s' * (len(steps) > 1)} {'-'.join(str(step + 1) for step in sorted({steps[0], steps[-1]}))}" for steps in dealt if steps]
    work = ["decoding", *work] if not dealt[0] else [f"{work[0]}, decoding", *work[1:]]
    left_out = f", {num_gpus - len(dealt)} left out" if num_gpus > len(dealt) else ""
    return f"{len(dealt)} GPUs: {' | '.join(work)}{left_out}"


@dataclass(frozen=True)
class LiveTeam:
    """The GPUs that make one live video.

    Attributes:
        dealt: the steps of each, as of `deal_steps`. networks: of each that has steps, in the same order.
        crew: their threads; the first GPU belongs to the thread that samples.
    """

    dealt: tuple[range, ...]
    networks: Sequence[CausalVideo]
    crew: Crew

    def sampler(self, told: Told, sigmas: Sequence[float], on_step: OnStep) -> LiveSampler:
        """A sampler on these GPUs; arguments as of LiveSampler."""
        if len(self.dealt) == 1:
            return LiveSampler(self.networks[0], told, sigmas, on_step)
        return LivePipeline(self, told, sigmas, on_step)


class LivePipeline(LiveSampler):
    """Samples the blocks of one video on several GPUs. Steps are reported when their block is finished."""

    def __init__(self, team: LiveTeam, told: Told, sigmas: Sequence[float], on_step: OnStep = lambda *_: None):
        super().__init__(team.networks[0], told, sigmas, on_step)
        self._crew, self._networks = team.crew, team.networks
        self._first = len(team.dealt) - len(team.networks)  # member that makes steps
        self._steps = team.dealt[self._first :]

    def sample(self, numbers: Iterable[int], noise: Callable[[int], Tensor]) -> Iterator[LiveBlock]:
        """The same; while a block is handed on, the others work on those behind it."""
        given: list[Unfinished | None] = [None] * len(self._networks)  # to each network
        made = given
        for number in chain(numbers, repeat(None, len(given) - 1)):
            finished, given = made[-1], [None if number is None else self._enter(number, noise(number)), *made[:-1]]
            made = [None] * len(given)
            with self._crew.begun(self._work(given, made)) as lead:
                if finished is not None:
                    yield self._reported(finished)
                lead()
        if made[-1] is not None:
            yield self._reported(made[-1])

    def _work(self, given: Sequence[Unfinished | None], made: list[Unfinished | None]) -> Callable[[Member], None]:
        """Let each member make its steps of what it is given."""

        def work(member: Member) -> None:
            own = member.rank - self._first
            block = given[own] if own >= 0 else None
            if block is not None:
                for step in self._steps[own]:
                    block = self._step(self._networks[own], block, step)
                made[own] = block.on_cpu()

        return work

    def _reported(self, block: Unfinished) -> LiveBlock:
        for step, x in enumerate([*block.inputs[1:], block.x]):
            self._on_step(block.index, step, x)
        return block.finished()

    def _on_all(self, work: Callable[[CausalVideo, range], None]) -> None:
        def do(member: Member) -> None:
            own = member.rank - self._first
            if own >= 0:
                work(self._networks[own], self._steps[own])

        self._crew.run(do)

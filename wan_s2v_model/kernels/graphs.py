"""Work for a GPU that is asked for once and then replayed: where each piece is short, Python would be slower than the GPU.

A CUDA graph has the addresses of all tensors in it. Inputs are therefore copied into memory of its own, and everything else has to stay
where it is; whoever replays says by a fingerprint what that is.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Inputs = TypeVar("Inputs")


class Recording(NamedTuple):
    """A graph, and the tensor that holds its result behind each replay."""

    graph: "torch.cuda.CUDAGraph"
    result: Tensor


class Graphs:
    """Graphs of work on inputs of the same shapes, by key. They share their inputs and their memory, so that one runs at a time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all graphs: tensors that they know have moved."""
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._inputs: list[Tensor] = []
        self._fingerprint: Hashable = None

    def run(self, key: Hashable, inputs: Inputs, work: Callable[[Inputs], Tensor], fingerprint: Hashable) -> Tensor:
        """The result of the work: done as it is for the first time, which builds what it needs, then recorded, then replayed.

        Args:
            inputs: any nest with tensors on the GPU, and with nothing else that changes.
            fingerprint: where the tensors are that are no inputs.
        """
        if fingerprint != self._fingerprint:
            self.forget()
            self._fingerprint = fingerprint
        if key not in self._seen:
            self._seen.add(key)
            return work(inputs)
        leaves, form = tree_flatten(inputs)
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not self._inputs:
            self._inputs = [tensor.clone() for tensor in given]
        torch._foreach_copy_(self._inputs, given)
        if key not in self._recordings:
            own = iter(self._inputs)
            kept = tree_unflatten([next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)
            self._recordings[key] = self._record(lambda: work(kept))
        graph, result = self._recordings[key]
        graph.replay()
        return result.clone()

    def _record(self, work: Callable[[], Tensor]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        pool = next((recording.graph.pool() for recording in self._recordings.values()), None)
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = work()
        return Recording(graph, result)


def addresses(tensors: Iterable[Tensor]) -> Hashable:
    """Where tensors are."""
    return tuple(tensor.data_ptr() for tensor in tensors)

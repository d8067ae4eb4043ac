"""Work for a GPU that is asked for once and then replayed: where each piece is short, Python would be slower than the GPU.

A CUDA graph has the addresses of all tensors in it. Inputs are therefore copied into memory of its own, and everything else has to stay
where it is; whoever replays says by a fingerprint what that is.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

logger = logging.getLogger("wan_s2v")
Inputs = TypeVar("Inputs")
TOLERANCE = 1e-3  # relative: the same kernels on the same numbers
RECORDING = threading.Lock()  # torch empties the caches of all GPUs before, which it refuses while one of them is recorded


class Recording(NamedTuple):
    """A graph, and the tensor that holds its result behind each replay."""

    graph: "torch.cuda.CUDAGraph"
    result: Tensor


class Graphs:
    """Graphs of work on inputs of the same shapes, by key. They share their inputs and their memory, so that one runs at a time."""

    def __init__(self) -> None:
        self._is_off = False
        self.forget()

    def forget(self) -> None:
        """Drop all graphs: tensors that they know have moved."""
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._inputs: list[Tensor] = []
        self._fingerprint: Hashable = None

    def run(self, key: Hashable, inputs: Inputs, work: Callable[[Inputs], Tensor], fingerprint: Hashable) -> Tensor:
        """The result of the work: done as it is for the first time, which builds what it needs, then recorded, then replayed.

        A recording has to give what the work itself gives; one that fails is logged, and nothing is recorded any more.

        Args:
            inputs: any nest with tensors on the GPU, and with nothing else that changes.
            fingerprint: where the tensors are that are no inputs.
        """
        if fingerprint != self._fingerprint:
            self.forget()
            self._fingerprint = fingerprint
        if self._is_off or key not in self._seen:
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
            return self._first(key, work(inputs), lambda: work(kept))
        return self._replayed(key)

    def _replayed(self, key: Hashable) -> Tensor:
        graph, result = self._recordings[key]
        graph.replay()
        return result.clone()

    def _first(self, key: Hashable, expected: Tensor, work: Callable[[], Tensor]) -> Tensor:
        """Record the work, whose result is known, and compare; returns that result."""
        try:
            self._recordings[key] = self._record(work)
            difference = float((self._replayed(key).float() - expected.float()).norm() / expected.float().norm())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._stop(f"cannot be recorded here ({str(error).partition(chr(10))[0]})")
        else:
            if not difference <= TOLERANCE:
                self._stop(f"are wrong by {difference:.1e} here")
        return expected

    def _stop(self, reason: str) -> None:
        logger.warning("CUDA graphs %s: the GPU is asked for each piece of work by itself, which is slower", reason)
        self.forget()
        self._is_off = True

    def _record(self, work: Callable[[], Tensor]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        pool = next((recording.graph.pool() for recording in self._recordings.values()), None)
        with RECORDING, torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = work()
        return Recording(graph, result)


def addresses(tensors: Iterable[Tensor]) -> Hashable:
    """Where tensors are."""
    return tuple(tensor.data_ptr() for tensor in tensors)

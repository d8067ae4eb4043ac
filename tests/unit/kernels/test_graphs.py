"""When work is done, recorded and replayed; the graph of CUDA has a stand-in that runs on any machine."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels.graphs import Graphs, addresses


class Graph:
    """Replays by doing the work again, on the tensors it was recorded with."""

    recording = None
    count = 0

    def replay(self):
        self.result.copy_(self.work())
        Graph.count += 1

    def pool(self):
        return "pool"


@pytest.fixture
def graphs(monkeypatch):
    pools = []

    @contextmanager
    def record(graph, pool, capture_error_mode):
        pools.append(pool)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    graphs = Graphs()
    graphs.pools = pools
    recorded = graphs._record

    def keep_work(work):
        recording = recorded(work)
        recording.graph.work, recording.graph.result = work, recording.result
        return recording

    graphs._record = keep_work
    return graphs


def run(graphs, key, value, fingerprint=0):
    return graphs.run(key, (torch.tensor([value]), [torch.tensor([1.0]), None]), lambda given: given[0] * 2 + given[1][0], fingerprint)


def test_results_are_those_of_the_inputs_however_they_come_about(graphs):
    results = [run(graphs, key, float(value)) for value, key in enumerate("aababb")]
    assert [float(result) for result in results] == [1, 3, 5, 7, 9, 11]
    assert len(graphs._recordings) == 2
    assert graphs.pools == [None, "pool"]


def test_moved_tensors_are_recorded_anew(graphs):
    for fingerprint in (0, 0, 1, 1):
        run(graphs, "a", 1.0, fingerprint)
    assert graphs.pools == [None, None]


@pytest.mark.parametrize("failure", ["cannot be recorded", "are wrong by"])
def test_what_does_not_work_is_said_and_done_without(graphs, monkeypatch, caplog, failure):
    def wrong(graph):
        graph.result.add_(1)

    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    if failure == "are wrong by":
        monkeypatch.setattr(Graph, "replay", wrong)
    else:
        monkeypatch.setattr(torch.cuda, "graph", refuse)
    assert [float(run(graphs, "a", float(value))) for value in range(4)] == [1, 3, 5, 7]
    assert failure in caplog.text
    assert len(caplog.records) == 1
    assert not graphs._recordings


def test_addresses_tell_tensors_apart():
    some = torch.zeros(2), torch.ones(3)
    assert addresses(some) == addresses(some) != addresses([some[0], some[1].clone()])


def test_two_threads_never_record_at_once(monkeypatch):
    """Each waits in its recording for the other; who is alone there goes on after a moment."""
    both = threading.Barrier(2)

    @contextmanager
    def record(graph, pool, capture_error_mode):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
            pytest.fail("two recordings at once")
        both.reset()
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    with ThreadPoolExecutor(2) as pool:
        for recording in pool.map(lambda _: Graphs()._record(lambda: torch.ones(1)), range(2)):
            assert recording.result == 1

"""Text that is the same in every process, by which two runs are compared."""

import functools

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.runs.stable_text import digest, stable_text


def scaled(factor, layers=(), state=None):
    """As nodes make functions for a MODEL: with their settings, objects, and something that they change."""
    mean = 0

    def cfg_function(args):
        nonlocal mean
        mean = mean + factor * args + len(layers) + (state is None)
        return mean

    return cfg_function


class Handler:
    def __init__(self, length, step=0):
        self.length = length
        self._step = step
        self.cache = torch.zeros(2)

    def run(self):
        pass


ALIKE = {
    "number": lambda: 1.5,
    "tensor": lambda: torch.ones(2, 3),
    "function": lambda: scaled(2.0, [1, 2], object()),
    "functions in a list": lambda: [scaled(2.0), scaled(3.0)],
    "partial": lambda: functools.partial(scaled, 2.0, state=object()),
    "method": lambda: Handler(81).run,
    "object": lambda: Handler(81, step=id(object())),
    "mapping": lambda: {"b": Handler(1), "a": scaled(1.0)},
    "class": lambda: Handler,
    "module": lambda: torch.nn.Linear(2, 2),
}
OTHERS = {
    "number": 1.6,
    "tensor": torch.ones(3, 2),
    "function": scaled(2.5, [1, 2], object()),
    "functions in a list": [scaled(2.0), scaled(3.5)],
    "partial": functools.partial(scaled, 2.5, state=object()),
    "method": Handler(82).run,
    "object": Handler(82),
    "mapping": {"b": Handler(1), "a": scaled(1.5)},
    "class": int,
    "module": torch.nn.Conv1d(2, 2, 1),
}


@pytest.mark.parametrize("name", ALIKE)
def test_text_is_that_of_an_equal_value_and_of_no_other(name):
    text = stable_text(ALIKE[name]())
    assert stable_text(ALIKE[name]()) == text
    assert stable_text(OTHERS[name]) != text
    assert "0x" not in text


def test_what_a_function_changes_itself_does_not_count():
    function = scaled(2.0)
    before = stable_text(function)
    function(3)
    assert stable_text(function) == before


def test_lists_in_a_function_count_by_value_unless_they_may_be_filled_later():
    assert stable_text(scaled(1.0, [7, 8])) != stable_text(scaled(1.0, [7, 9]))
    filled = []
    function = scaled(1.0, filled)
    before = stable_text(function)
    filled.append(torch.ones(1))
    assert stable_text(function) == before


def test_variable_that_was_never_set():
    def make(chosen):
        if chosen:
            number = 3
        return lambda: number

    assert stable_text(make(True)) != stable_text(make(False))


def test_what_counts_its_calls_is_known_by_its_class():
    class Counter:
        calls = 0

        def __call__(self):
            self.calls += 1

    counter = Counter()
    before = stable_text(counter)
    counter()
    assert stable_text(counter) == before


def test_attribute_that_is_set_later_does_not_count():
    handler = Handler(81)
    handler.steps = None
    before = stable_text(handler)
    handler.steps = (1, object())
    assert stable_text(handler) == before


def test_digest_sees_shape_and_values():
    values = [], [torch.ones(2, 3)], [torch.ones(3, 2)], [torch.zeros(2, 3)], [torch.ones(2), torch.ones(3)]
    assert len({digest(*tensors) for tensors in values}) == len(values)
    assert digest() == ""
    assert digest(torch.ones(2, dtype=torch.bfloat16)) == digest(torch.ones(2))

"""Text by which two runs are compared: other for other settings, the same for the same ones, in another process too."""

import enum
import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.origin import digest
from wan_s2v_pack.wan_s2v_model.runs.stable_text import BLOCK, blocks, sample, stable_text

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"


def scaled(factor, layers=(), state=None):
    """As nodes make functions for a MODEL: with their settings, objects, and something that they change."""
    mean = 0

    def cfg_function(args):
        nonlocal mean
        mean = mean + factor * args + len(layers) + (state is None)
        return mean

    return cfg_function


def by_default(factor):
    return lambda args, factor=factor: args * factor


class Mode(enum.Enum):
    FAST = 1
    EXACT = 2


class Handler:
    def __init__(self, length, step=0):
        self.length = length
        self._step = step
        self.cache = SimpleNamespace()

    def run(self):
        pass

    def reset(self):
        pass


class Counter:
    def __init__(self, multiplier):
        self.multiplier = multiplier
        self.calls = 0

    def __call__(self):
        self.calls += 1


def layer(width, value=0.0):
    made = torch.nn.Linear(width, 2)
    torch.nn.init.constant_(made.weight, value)
    torch.nn.init.constant_(made.bias, value)
    return made


SETTINGS = {  # how a value is made, and two settings
    "number": (lambda value: value, 1.5, 1.6),
    "number or text": (lambda value: value, 1, "1"),
    "type of tensors": (lambda value: value, torch.float16, torch.bfloat16),
    "member of an enum": (lambda value: value, Mode.FAST, Mode.EXACT),
    "tensor": (torch.ones, (2, 3), (3, 2)),
    "what a function encloses": (scaled, 2.0, 2.5),
    "list that a function encloses": (lambda value: scaled(1.0, value), [7, 8], [7, 9]),
    "tensor that a function encloses": (lambda value: scaled(torch.full((2,), value)), 1.0, 2.0),
    "default of a function": (by_default, 0.7, 0.5),
    "functions in a list": (lambda value: [scaled(2.0), scaled(value)], 3.0, 3.5),
    "partial": (lambda value: functools.partial(scaled, value, state=Handler(1)), 2.0, 2.5),
    "object": (Handler, 81, 82),
    "dictionary in an object": (Handler, {"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}),
    "object of a method": (lambda value: Handler(value).run, 81, 82),
    "method of an object": (lambda value: getattr(Handler(81), value), "run", "reset"),
    "callable object": (Counter, 0.7, 0.5),
    "mapping": (lambda value: {"b": Handler(1), "a": scaled(value)}, 1.0, 1.5),
    "class": (lambda value: value, Handler, Counter),
    "module": (lambda value: value, os, sys),
    "set": (set, ["a", "b"], ["a", "c"]),
    "layer": (lambda value: layer(value), 2, 3),
    "weights of a layer": (lambda value: layer(2, value), 1.0, 2.0),
    "function in a function in a function": (lambda value: scaled(1.0, [scaled(2.0, [scaled(value)])]), 1.0, 2.0),
    "numbers of an object in a function": (lambda value: scaled(1.0, [Counter(value)]), 0.7, 0.5),
    "partial in a function": (lambda value: scaled(1.0, [functools.partial(scaled, value)]), 0.7, 0.5),
}


def texts():
    return {name: [stable_text(make(setting)) for setting in settings] for name, (make, *settings) in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_settings_have_other_texts_and_the_same_ones_the_same(name):
    make, one, other = SETTINGS[name]
    assert stable_text(make(one)) == stable_text(make(one))
    assert stable_text(make(one)) != stable_text(make(other))


def test_another_process_gives_the_same_texts_without_addresses():
    code = f"import runpy, sys; runpy.run_path({str(CONFTEST)!r}); print(runpy.run_path({__file__!r}, run_name='m')['texts']())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    seen = [
        subprocess.run([sys.executable, "-c", code], env={**environment, **other}, capture_output=True, text=True, check=True).stdout
        for other in ({}, {"PYTHONHASHSEED": "8"})
    ]
    assert seen[0] == seen[1]
    assert "0x" not in seen[0]


@pytest.mark.parametrize("make", [lambda: scaled(2.0), lambda: Counter(0.7)], ids=["function", "object"])
def test_what_changes_with_use_does_not_count(make):
    """A second queue sees the MODEL of the first one, whose guidance keeps a running mean."""
    used = make()
    before = stable_text(used)
    used(*[3] * (not isinstance(used, Counter)))
    assert stable_text(used) == before == stable_text(make())


def test_an_object_that_came_in_the_place_of_another_has_its_own_text():
    """Python gives the address of what is gone to what comes."""
    assert len({stable_text(scaled(float(factor))) for factor in range(50)}) == 50


def test_variable_that_was_never_set():
    def make(chosen):
        if chosen:
            number = 3
        return lambda: number

    assert stable_text(make(True)) != stable_text(make(False))


def test_the_folder_of_a_node_pack_does_not_count():
    """ComfyUI names the modules of a pack by its path, which differs from one machine to the next."""

    def function():
        pass

    seen = set()
    for folder in ("/home/a/ComfyUI/custom_nodes/", "C:\\ComfyUI\\custom_nodes\\"):
        made = type(function)(function.__code__, {"__name__": f"{folder}pack.nodes"})
        seen.add(stable_text(made).split()[0])
    assert len(seen) == 1


def test_digest_sees_shape_and_values():
    values = [], [torch.ones(2, 3)], [torch.ones(3, 2)], [torch.zeros(2, 3)], [torch.ones(2), torch.ones(3)]
    assert len({digest(*tensors) for tensors in values}) == len(values)
    assert digest() == ""
    half = torch.float16, torch.bfloat16
    assert len({digest(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, *half)}) == 3


def test_bytes_are_hashed_in_any_order_of_memory_and_type():
    values = torch.arange(6.0).view(2, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool):
        assert digest(values.T.contiguous().T.to(dtype)) == digest(values.to(dtype))
    assert digest(torch.tensor(2.0)) == digest(torch.tensor(2.0))


def test_a_device_is_no_setting():
    """Another GPU makes the same video."""
    assert stable_text([torch.device("cuda:0")]) == stable_text([torch.device("cpu")])


def test_blocks_reach_from_the_first_byte_to_the_last():
    assert blocks(100) == [(0, 100)]
    found = blocks(1000 * BLOCK + 1)
    assert (found[0][0], found[-1][1], len(found)) == (0, 1000 * BLOCK + 1, 4)
    assert all(end - start == BLOCK for start, end in found)


def test_computed_buffers_are_no_weights():
    """Their last bits differ from device to device."""

    def with_buffer(value, persistent):
        made = layer(2)
        made.register_buffer("table", torch.full((2,), value), persistent=persistent)
        return sample(made)

    assert with_buffer(1.0, persistent=False) == with_buffer(2.0, persistent=False) == sample(layer(2))
    assert with_buffer(1.0, persistent=True) != with_buffer(2.0, persistent=True)

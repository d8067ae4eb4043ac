"""The parsers against mutated seeds, some thousand in seconds and always the same; tests/fuzz/run.py is guided by coverage."""

import random
import warnings

import pytest
from wan_s2v_pack.tests.fuzz.targets import TARGETS, try_one

CASES = 300  # of each parser
HOSTILE = (
    b"1e999",
    b"NaN",
    b"-1",
    b"[" * 3000,
    b"9" * 5000,
    b"null",
    b'"\\ud800"',
    b"\0",
    b"\xff\xff\xff\xff",
    b"../",
    b"true",
    b"{}",
    b"999999999",
)


def mutated(generator, data):
    """A few changes: bytes flipped, cut out, doubled, or replaced by what parsers fear."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(data) + 1)
        end = min(len(data), start + generator.choice((1, 1, 2, 8, 50)))
        piece = generator.choice((b"", bytes(data[start:end]) * 2, generator.randbytes(end - start), generator.choice(HOSTILE)))
        data[start:end] = piece
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_mutant_is_read_or_refused_in_words(name):
    generator = random.Random(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(CASES):
            try_one(name, mutated(generator, generator.choice(TARGETS[name].seeds)))

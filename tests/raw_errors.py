"""Errors that no person understands, by kind and by words: what a node or a parser must never let through."""

from __future__ import annotations

import dis
import re
import struct

FORBIDDEN_KINDS = (
    *(AttributeError, TypeError, LookupError, AssertionError, ArithmeticError, NameError, MemoryError),
    *(NotImplementedError, RecursionError, UnicodeError, StopIteration, EOFError, BufferError, struct.error, re.error),
)
FORBIDDEN_WORDS = re.compile(
    r"values to unpack|cannot convert float|invalid literal|could not convert|embedded null|not supported between|has no attribute"
    r"|size of tensor|shape '\[|must match the size|mat1 and mat2|not implemented for|Expected \d|scalar type|Dimension out of range"
    r"|truth value of|NoneType|unhashable|positional argument|keyword argument|out of range for|DefaultCPUAllocator|Traceback|0x[0-9a-f]{8}"
    r"|JSON compliant|Invalid argument|File name too long|Kernel size|stack expects|argument must be"
)
MOST_WORDS = 2000  # characters


def raw_error(error: BaseException) -> str | None:
    """An error as it is, if no person understands it; None for one in words."""
    text = str(error)
    is_raw = isinstance(error, FORBIDDEN_KINDS) or not text.strip() or raw_words(text)
    return f"{type(error).__name__}: {text[:300]}" if is_raw else None


def raw_words(text: str) -> str | None:
    """The begin of a message that no person understands; None for one in words."""
    return text[:300] if FORBIDDEN_WORDS.search(text) or len(text) > MOST_WORDS else None


def is_in_own_words(error: BaseException, package: str) -> bool:
    """Whether the code of a package raised an error itself, by `raise`, so that somebody wrote its words for those who read them."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    frame = traceback.tb_frame
    last = (step for step in dis.get_instructions(frame.f_code) if step.offset == traceback.tb_lasti)
    return frame.f_globals.get("__name__", "").startswith(package) and any(step.opname == "RAISE_VARARGS" for step in last)

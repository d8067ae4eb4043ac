"""Whether code for a GPU may be used there: it is built, run and compared once, and a failure is logged instead of raised."""

import logging
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

import torch

logger = logging.getLogger("wan_s2v")


Errors = tuple[type[Exception], ...]


def passes(disagreement: Callable[[], float], tolerance: float, *, fails: str, differs: str, errors: Errors | None = None) -> bool:
    """Run a comparison.

    Args:
        disagreement: the difference between the two ways to compute something; NaN is too large.
        fails, differs: log texts for code that cannot run, with %s for the reason, and for a wrong result, with %.1e for the difference.
        errors: what code that cannot run raises; None for what Triton does.
    Raises:
        torch.OutOfMemoryError: the GPU is full, so that nothing is known.
    """
    expected = errors or _build_errors()
    try:
        difference = disagreement()
    except torch.OutOfMemoryError:  # says nothing about the code
        raise
    except expected as error:
        logger.warning(fails, str(error).partition("\n")[0])
        return False
    if difference <= tolerance:
        return True
    logger.warning(differs, difference)
    return False


def _build_errors() -> Errors:
    """What building a kernel and running it for the first time can raise: no Triton, no C compiler, no room, a GPU it does not know."""
    errors = ImportError, RuntimeError, ValueError, OSError, AssertionError, subprocess.SubprocessError
    if find_spec("triton") is None:
        return errors
    from triton.errors import TritonError

    return *errors, TritonError

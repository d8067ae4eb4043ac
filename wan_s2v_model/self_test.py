"""Whether code for a GPU may be used there: it is built, run and compared once, and a failure is logged instead of raised."""

import logging
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

logger = logging.getLogger("wan_s2v")


def passes(disagreement: Callable[[], float], tolerance: float, *, fails: str, differs: str) -> bool:
    """Run a comparison.

    Args:
        disagreement: the difference between the two ways to compute something; NaN is too large.
        fails, differs: log texts for code that cannot run, with %s for the reason, and for a wrong result, with %.1e for the difference.
    """
    try:
        difference = disagreement()
    except _build_errors() as error:
        logger.warning(fails, str(error).partition("\n")[0])
        return False
    if difference <= tolerance:
        return True
    logger.warning(differs, difference)
    return False


def _build_errors() -> tuple[type[Exception], ...]:
    """What building a kernel and running it for the first time can raise: no Triton, no C compiler, no room, a GPU it does not know."""
    errors = ImportError, RuntimeError, ValueError, OSError, AssertionError, subprocess.SubprocessError
    if find_spec("triton") is None:
        return errors
    from triton.errors import TritonError

    return *errors, TritonError

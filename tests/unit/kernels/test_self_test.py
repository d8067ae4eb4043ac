"""Whether code for a GPU is used: it runs, and gives what the plain code gives."""

import logging
import math

import pytest
from wan_s2v_pack.wan_s2v_model.kernels.self_test import passes

WORDS = {"fails": "cannot run (%s)", "differs": "off by %.1e"}


def run(outcome, **options):
    def disagreement():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return passes(disagreement, 0.01, **WORDS, **options)


@pytest.mark.parametrize("difference", [0.0, 0.01])
def test_equal_results_pass_in_silence(difference, caplog):
    assert run(difference)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (0.02, "off by 2.0e-02"),
        (math.nan, "off by nan"),
        (RuntimeError("no C compiler\nand more"), "cannot run (no C compiler)"),
        (ImportError("no triton"), "cannot run (no triton)"),
        (OSError("disk full"), "cannot run (disk full)"),
    ],
)
def test_wrong_results_and_failures_do_not_pass_and_say_why(outcome, message, caplog):
    assert not run(outcome)
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, message)]


@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt()])
def test_other_errors_are_raised(error):
    with pytest.raises(type(error)):
        run(error)


def test_expected_errors_may_be_named(caplog):
    assert not run(KeyError("scale"), errors=(KeyError,))
    with pytest.raises(RuntimeError):
        run(RuntimeError("out of memory"), errors=(KeyError,))

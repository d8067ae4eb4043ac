"""Mutation testing of single modules: which small changes of the code does no unit test notice?

    python tests/mutation.py wan_s2v_model/runs/manifest.py tests/unit/runs/test_manifest.py tests/unit/runs/test_store_hostile.py

Each mutant runs in a forked child in which what the tests import is loaded already, all but the pack, so it takes a second or two; mutmut
and cosmic-ray start Python for each, or copy the tree, which the tests' own name for the pack does not survive. Limits: one change at a
time, of comparisons, `and`/`or`, `not`, whole numbers, booleans, sums and returned values; texts are left alone, and what no test can see
counts as survived. Needs `fork`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import importlib.machinery
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 120  # for a mutant that waits
LONGEST_TIMES = 4  # as much processor time as without a change, for a mutant that never ends
SWAPS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
}


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The field of a node that is changed, and its new value."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "op", ast.UAdd()  # +True is true, +False is false
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "value", node.value + 1
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "value", ast.Constant(None)


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Line, what it reads now, and the tree with one change."""
    for index, node in enumerate(ast.walk(tree)):
        for field, value in changes(node):
            changed = copy.deepcopy(tree)
            target = next(other for number, other in enumerate(ast.walk(changed)) if number == index)
            setattr(target, field, value)
            ast.fix_missing_locations(changed)
            text = ast.unparse(target) if not isinstance(target, ast.Constant) else f"{ast.unparse(node)} -> {ast.unparse(target)}"
            yield getattr(node, "lineno", 0), text.split("\n")[0][:100], changed


def in_child(work: Callable[[TextIO], int], longest_cpu_s: float = LONGEST_S) -> tuple[int, float, str]:
    """Run a function in a forked child whose output goes nowhere.

    Returns:
        Its exit status, the seconds of processor time, and what it wrote into the file that it is given.
    """
    reading, writing = os.pipe()
    if not (child := os.fork()):
        signal.alarm(LONGEST_S)
        signal.setitimer(signal.ITIMER_PROF, longest_cpu_s)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        with open(writing, "w") as told:
            status = work(told)
        os._exit(status)
    os.close(writing)
    with open(reading) as told:
        text = told.read()
    _, status, used = os.wait4(child, 0)
    return status, used.ru_utime + used.ru_stime, text


def run_tests(tests: list[str]) -> int:
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others cost more than most tests
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", *tests]))


def passes(module: Path, tree: ast.Module, tests: list[str], longest_cpu_s: float) -> bool:
    """Whether the tests pass with this tree in place of a module, and end."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def changed(loader: importlib.machinery.SourceFileLoader, name: str) -> object:
        is_it = Path(loader.path).resolve() == module
        return compile(tree, str(module), "exec") if is_it else get_code(loader, name)  # type: ignore[arg-type]

    def work(_: TextIO) -> int:
        importlib.machinery.SourceFileLoader.get_code = changed  # type: ignore[assignment,method-assign]
        return run_tests(tests)

    return in_child(work, longest_cpu_s)[0] == 0


def load_libraries(tests: list[str]) -> float:
    """Load here, before the children, what the tests import of other packages.

    Returns:
        Seconds of processor time that the tests take; 0 where they fail without a change.
    """

    def work(told: TextIO) -> int:
        before = set(sys.modules)
        status = run_tests(tests)
        there = {name: str(getattr(module, "__file__", "")) for name, module in sys.modules.items() if name not in before}
        told.write(" ".join(name for name, file in there.items() if "site-packages" in file))
        return status

    status, cpu_s, names = in_child(work)
    for name in names.split():
        with contextlib.suppress(Exception):  # some can only be loaded by others
            importlib.import_module(name)
    gc.freeze()  # or each child looks at all of it, and copies it
    return 0 if status else cpu_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+", help="files, folders or ids; other options of pytest stand behind --")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only so many mutants, drawn with a fixed seed")
    parser.add_argument(
        "--lines", type=int, nargs="+", metavar="LINE", help="only changes of these lines, such as survivors of a run before"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    import pytest  # noqa: F401 - loaded once, before the children
    import torch

    torch.set_num_threads(1)
    module = options.module.resolve()
    found = list(mutants(ast.parse(module.read_text(encoding="utf-8"))))
    if options.lines:
        found = [mutant for mutant in found if mutant[0] in options.lines]
    if options.sample and options.sample < len(found):
        found = random.Random(0).sample(found, options.sample)
    longest_cpu_s = LONGEST_TIMES * load_libraries(options.tests)
    if not longest_cpu_s:
        print("the tests fail without any change")
        return 1
    survived = 0
    for number, (line, text, tree) in enumerate(found, 1):
        if passes(module, tree, options.tests, longest_cpu_s):
            survived += 1
            print(f"\rsurvived: {options.module}:{line}: {text}", flush=True)
        print(f"\r{number - survived} of {number} killed, {len(found) - number} left", end="\n" if number == len(found) else "", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

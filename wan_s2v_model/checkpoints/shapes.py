"""Compares the tensors of a file with those that a model needs. Strict, with errors that say what to do."""

from collections.abc import Mapping

from .file_format import AGAIN_OR_OTHER, CheckpointError, listing
from .identify import SHARD, Shapes
from .quantisation import is_quantisation


def require_dimensions(shapes: Shapes, ranks: Mapping[str, int], file_name: str) -> None:
    """Raise CheckpointError unless the tensors that tell the architecture are there, none of them empty.

    Args:
        ranks: name of each tensor -> its number of dimensions.
    """
    found = {name: tuple(shapes[name]) for name in ranks if name in shapes}
    wrong = [f"{name} {shape}" for name, shape in found.items() if len(shape) != ranks[name] or 0 in shape]
    problems = "; ".join(filter(None, (listing("missing", sorted(ranks.keys() - found.keys())), listing("of the wrong shape", wrong))))
    if problems:
        raise CheckpointError(f"{file_name} is incomplete: {problems}. {_advice(file_name)}")


def require_fit(shapes: Shapes, expected: Shapes, model: str, file_name: str) -> None:
    """Raise CheckpointError unless a file has exactly these tensors, apart from quantisation scales."""
    found = {name: shape for name, shape in shapes.items() if not is_quantisation(name)}
    problems = compare_shapes(found, expected)
    if problems:
        raise CheckpointError(f"{file_name} does not fit {model}: {problems}. {_advice(file_name)}")


def compare_shapes(found: Shapes, expected: Shapes) -> str:
    """Say which tensors are missing, unexpected or of the wrong shape; "" if none is."""
    shared = [(name, tuple(found[name]), tuple(expected[name])) for name in sorted(expected.keys() & found.keys())]
    problems = [
        listing("missing", sorted(expected.keys() - found.keys())),
        listing("unexpected", sorted(found.keys() - expected.keys())),
        listing("of the wrong shape", [f"{name} {shape} instead of {right}" for name, shape, right in shared if shape != right]),
    ]
    return "; ".join(filter(None, problems))


def _advice(file_name: str) -> str:
    if SHARD.fullmatch(file_name):
        return "It is one part of a model in several files; pick a single file."
    return AGAIN_OR_OTHER

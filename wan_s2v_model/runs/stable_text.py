"""What other nodes attach, as text that is the same in every process: two runs are compared by it, and a run may go on after a restart."""

import contextlib
import dis
import functools
import hashlib
import re
import types
from collections.abc import Mapping
from typing import Any

import torch

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PLAIN = (bool, int, float, str, type(None))


def stable_text(value: Any) -> str:
    """Numbers, texts and tensors by value, functions by name and what they remember, objects by class and public numbers and texts.

    Objects that are called by class alone: they often count their calls.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return digest(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{without_addresses(str(key))}: {stable_text(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(stable_text, value))}]"
    if isinstance(value, functools.partial):
        return f"{stable_text(value.func)} {stable_text(value.args)} {stable_text(value.keywords)}"
    if isinstance(value, types.FunctionType):
        return f"{value.__qualname__} {_remembered(value)}"
    if isinstance(value, types.MethodType):
        return f"{stable_text(value.__self__)} {stable_text(value.__func__)}"
    return getattr(value, "__qualname__", None) or _object_text(value)


def without_addresses(text: str) -> str:
    """Those of objects differ from process to process."""
    return ADDRESS.sub("", text)


def _remembered(function: types.FunctionType) -> dict[str, Any]:
    """The plain values that a function was made with; what it changes itself, such as a running mean, differs from one call to the next."""
    changed = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"}
    kept = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # never set
            if name not in changed and _is_setting(cell.cell_contents):
                kept[name] = cell.cell_contents
    return kept


def _is_setting(value: Any) -> bool:
    """Whether a value is one that somebody chose. None and an empty list may be filled later."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(isinstance(item, PLAIN) for item in value)
    return isinstance(value, PLAIN) and value is not None


def _object_text(value: Any) -> str:
    public = {} if isinstance(value, torch.nn.Module) or callable(value) else getattr(value, "__dict__", {})
    kept = {name: item for name, item in sorted(public.items()) if not name.startswith("_") and _is_setting(item)}
    return f"{type(value).__qualname__} {kept}"


def digest(*tensors: torch.Tensor) -> str:
    """Hash of shapes and values; empty without tensors."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        for part in tensor.detach().unbind() if tensor.ndim > 1 else (tensor.detach(),):  # one after the other: a mapped file may be long
            hashed.update(part.cpu().float().contiguous().numpy().data)
    return hashed.hexdigest()[:16] if tensors else ""

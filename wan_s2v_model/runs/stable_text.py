"""What other nodes attach, as text that is the same in every process: two runs are compared by it, and a run may go on after a restart."""

import enum
import functools
import hashlib
import re
import types
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
FOLDERS = re.compile(r".*[/\\]")  # ComfyUI names the module of a node pack by its path
_first_texts: dict[int, tuple[weakref.ref, str]] = {}  # by the id of the object


def stable_text(value: Any, *, with_values: bool = True) -> str:
    """Values by content; functions by name, defaults and what they enclose; objects by class and public values.

    A function or object keeps the text that it had when it was first seen: from then on it may count its calls or fill a cache.

    Args:
        with_values: else functions and objects are told by name alone, as those inside of others are: they lead on to whole models.
    """
    tell = functools.partial(stable_text, with_values=with_values)
    if isinstance(value, torch.Tensor):
        return digest(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{without_addresses(str(key))}: {tell(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(tell, sorted(value, key=str) if isinstance(value, set | frozenset) else value))}]"
    if isinstance(value, functools.partial):
        return tell([value.func, value.args, value.keywords])
    if isinstance(value, types.MethodType):
        return tell([value.__self__, value.__name__])
    if isinstance(value, enum.Enum) or not hasattr(value, "__dict__"):  # numbers, texts, types of tensors
        return without_addresses(repr(value))
    return _first_text(value) if with_values and not isinstance(value, type | types.ModuleType) else _name(value)


def without_addresses(text: str) -> str:
    """Those of objects differ from process to process."""
    return ADDRESS.sub("", text)


def _first_text(value: Any) -> str:
    seen, text = _first_texts.get(id(value), (None, ""))
    if seen is None or seen() is not value:
        text = f"{_name(value)} {stable_text(_values(value), with_values=False)}"
        with suppress(TypeError):  # nothing can refer weakly to some objects
            _first_texts[id(value)] = weakref.ref(value), text
    return text


def _values(value: Any) -> dict[str, Any]:
    """Public attributes of an object; defaults and enclosed variables of a function."""
    if not isinstance(value, types.FunctionType):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    values = {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with suppress(ValueError):  # never set
            values[name] = cell.cell_contents
    return values


def _name(value: Any) -> str:
    """Module and name of a function or class, or of the class of an object, without the folder that holds a node pack."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    named = value if isinstance(value, type | types.FunctionType) else type(value)
    return f"{FOLDERS.sub('', named.__module__)}.{named.__qualname__}"


def digest(*tensors: torch.Tensor) -> str:
    """Hash of shapes and values; empty without tensors."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        for part in tensor.detach().unbind() if tensor.ndim > 1 else (tensor.detach(),):  # one after the other: a mapped file may be long
            hashed.update(part.cpu().float().contiguous().numpy().data)
    return hashed.hexdigest()[:16] if tensors else ""

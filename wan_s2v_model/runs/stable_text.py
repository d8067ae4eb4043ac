"""What other nodes attach, as text that is the same in every process: two runs are compared by it, and a run may go on after a restart."""

import enum
import functools
import hashlib
import operator
import re
import types
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import torch

from ..origin import digest, raw_bytes

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
FOLDERS = re.compile(r".*[/\\]")  # ComfyUI names the module of a node pack by its path
DEPTH = 3  # of functions in functions whose values are told
BLOCK = 4096  # bytes, a page of a mapped file
NUM_BLOCKS = 4  # of a tensor that is sampled
_first_texts: dict[tuple[int, int], tuple[weakref.ref, str]] = {}  # by the id of the object, and the depth


def stable_text(value: Any, depth: int = DEPTH) -> str:
    """Values by content; functions by name, defaults and what they enclose; objects by class and public values.

    A function or object keeps the text that it had when it was first seen: from then on it may count its calls or fill a cache.

    Args:
        depth: of functions and objects whose values are told; deeper ones are told by name. Inside of others objects are told by their
            numbers and texts only: they lead on to whole models.
    """
    tell = functools.partial(stable_text, depth=depth)
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
    if isinstance(value, torch.device):
        return "device"  # another one makes the same video
    if isinstance(value, enum.Enum) or not hasattr(value, "__dict__"):  # numbers, texts, types of tensors
        return without_addresses(repr(value))
    return _name(value) if depth == 0 or isinstance(value, type | types.ModuleType) else _first_text(value, depth)


def without_addresses(text: str) -> str:
    """Those of objects differ from process to process."""
    return ADDRESS.sub("", text)


def _first_text(value: Any, depth: int) -> str:
    seen, text = _first_texts.get((id(value), depth), (None, ""))
    if seen is None or seen() is not value:
        text = f"{_name(value)} {stable_text(_values(value, is_inside=depth < DEPTH), depth - 1)}"
        with suppress(TypeError):  # nothing can refer weakly to some objects
            _first_texts[id(value), depth] = weakref.ref(value), text
    return text


def _values(value: Any, *, is_inside: bool) -> dict[str, Any]:
    """Defaults and enclosed variables of a function; public attributes of an object; weights of layers by a sample."""
    if isinstance(value, types.FunctionType):
        values = {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # never set
                values[name] = cell.cell_contents
        return values
    public = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    if is_inside:
        is_model = isinstance(value, torch.nn.Module) or hasattr(value, "patches_uuid")  # or its ModelPatcher
        return {} if is_model else {name: item for name, item in public.items() if isinstance(item, str | int | float)}
    return {**public, "weights": sample(value)} if isinstance(value, torch.nn.Module) else public


def _name(value: Any) -> str:
    """Module and name of a function or class, or of the class of an object, without the folder that holds a node pack."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    named = value if isinstance(value, type | types.FunctionType) else type(value)
    return f"{FOLDERS.sub('', named.__module__)}.{named.__qualname__}"


def sample(network: torch.nn.Module, unpatched: Mapping[str, torch.Tensor] = MappingProxyType({})) -> str:
    """Hash of names, types, shapes and bytes of all weights: small ones whole, of each larger one some blocks, so that it is fast.

    Args:
        unpatched: weights as they were before LoRAs changed them in place, by name.
    """
    hashed = hashlib.sha256()
    for name, tensor in sorted([*network.named_parameters(), *_kept_buffers(network)], key=operator.itemgetter(0)):
        for part in _plain_parts(unpatched.get(name, tensor)):
            kind = getattr(part, "tensor_type", "")  # of a GGUF loader
            hashed.update(f"{name} {part.dtype} {kind} {tuple(part.shape)}".encode())
            if not part.is_meta:
                sampled = raw_bytes(part)
                hashed.update(str(len(sampled)).encode())
                for start, end in blocks(len(sampled)):
                    hashed.update(sampled[start:end].cpu().numpy().data)
    return hashed.hexdigest()[:16]


def blocks(num_bytes: int) -> list[tuple[int, int]]:
    """Begin and end of the parts that stand for so many bytes: all if they are few, else blocks from the first to the last."""
    if num_bytes <= NUM_BLOCKS * BLOCK:
        return [(0, num_bytes)]
    starts = [(num_bytes - BLOCK) * index // (NUM_BLOCKS - 1) for index in range(NUM_BLOCKS)]
    return [(start, start + BLOCK) for start in starts]


def _kept_buffers(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Without those that are computed, which differ in their last bits from device to device."""
    for path, module in network.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}", buffer


def _plain_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of which a quantised one is made."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in _plain_parts(getattr(tensor, name))]

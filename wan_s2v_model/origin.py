"""What an encoding was made of, kept with its tensor: another kind of GPU encodes the same input, but with other last bits."""

import hashlib

import torch
from torch import Tensor

ORIGIN = "wan_s2v_origin"  # attribute of a tensor; operations do not hand it on, so a changed encoding has none


def made_of(tensor: Tensor, origin: str) -> Tensor:
    """Note of what a tensor was encoded, and return it.

    Args:
        origin: names all that decides the encoding: input, encoder and settings; empty where that is not known.
    """
    setattr(tensor, ORIGIN, origin)
    return tensor


def origin_of(tensor: Tensor) -> str:
    """Of what a tensor was encoded; empty where that was not noted."""
    return getattr(tensor, ORIGIN, "")


def identity_of(*tensors: Tensor) -> str:
    """Hash of what each tensor was made of, or of its bytes where it does not say so; empty without tensors."""
    if not any(map(origin_of, tensors)):
        return digest(*tensors)
    origins = [origin_of(tensor) or digest(tensor) for tensor in tensors]
    return f"input {hashlib.sha256('; '.join(origins).encode()).hexdigest()[:16]}"


def digest(*tensors: Tensor) -> str:
    """Hash of shapes and bytes; empty without tensors."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{'' if tensor.dtype == torch.float32 else tensor.dtype}{tuple(tensor.shape)}".encode())
        in_one = tensor.ndim < 2 or tensor.is_contiguous()
        for part in (tensor,) if in_one else tensor.detach().unbind():  # to be copied one after the other: a mapped file may be long
            hashed.update(raw_bytes(part).cpu().numpy().data)
    return hashed.hexdigest()[:16] if tensors else ""


def raw_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, [N] uint8, whatever a subclass makes of them."""
    return tensor.detach().as_subclass(Tensor).contiguous().view(-1).view(torch.uint8)

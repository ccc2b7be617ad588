"""Which tensors of a state dict lie in one memory without being one object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sharing:
    """``tied`` are keys of equal tensors, ``overlapping`` those of tensors that share memory in different layouts."""

    tied: tuple[tuple[str, str], ...]
    overlapping: tuple[str, ...]


def sharing(model: nn.Module) -> Sharing:
    """How the state dict of ``model`` shares memory. A copy in another dtype does not show it any more."""
    first: dict[int, tuple[str, Tensor]] = {}
    tied: list[tuple[str, str]] = []
    overlapping: list[str] = []
    for key, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or not tensor.numel():
            continue
        other_key, other = first.setdefault(memory_of(tensor), (key, tensor))
        if layout_of(other) == layout_of(tensor):
            tied.append((other_key, key))
        else:
            overlapping += [other_key, key]
    return Sharing(tuple(tied), tuple(overlapping))


def memory_of(tensor: Tensor) -> int:
    """Where the tensor's memory lies; without elements it has none to share, and in a sparse layout no one place."""
    if tensor.layout != torch.strided:
        return -id(tensor)
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except NotImplementedError:  # a wrapper, such as vmap's; operations get what is inside it
        return -id(tensor)


def layout_of(tensor: Tensor) -> tuple[object, ...]:
    """How the tensor lies in its memory."""
    if tensor.layout != torch.strided:
        return tensor.dtype, tensor.shape, tensor.layout
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()

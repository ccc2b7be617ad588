"""Tensors that a network has under several names."""

from collections.abc import Iterable

import torch
from torch import nn

from alignment.channels import PARTS, key_of
from alignment.tracing.sharing import memory_of


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """For each name in the state dict of ``model`` whose tensor has others there too, all the tensor's names.

    Tensors that begin at one place in memory count as one, whatever their shapes and strides. A copy of ``model`` does
    not always show it any more: that two parameters lie in one memory is lost, not that they are one object.
    """
    groups: dict[tuple[int, object], list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.numel():
            groups.setdefault((memory_of(tensor), tensor.storage_offset()), []).append(name)
    return {name: group for group in groups.values() if len(group) > 1 for name in group}


def untied(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Those of ``layers`` whose weight and bias ``model`` has under no other name: they can be set alone."""
    tied = tied_names(model)
    return [layer for layer in layers if not any(key_of(layer, part) in tied for part in PARTS)]

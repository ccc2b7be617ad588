"""The widest arithmetic that a device offers."""

import torch
from torch import Tensor


def as_double(tensor: Tensor) -> Tensor:
    """``tensor`` in fp64, complex128 if complex; on its device, or on the CPU where there is none (MPS)."""
    there = tensor.cpu() if tensor.device.type == "mps" else tensor
    return there.to(torch.complex128 if tensor.is_complex() else torch.float64)


def is_continuous(tensor: Tensor) -> bool:
    """Whether means of ``tensor`` make sense; integers and booleans have none."""
    return tensor.is_floating_point() or tensor.is_complex()

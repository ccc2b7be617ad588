"""The widest arithmetic that a device offers."""

from typing import TypeGuard

import torch
from torch import Tensor


def as_double(tensor: Tensor) -> Tensor:
    """``tensor`` in fp64, complex128 if complex; on its device, or on the CPU where there is none (MPS)."""
    there = tensor.cpu() if tensor.device.type == "mps" else tensor
    return there.to(torch.complex128 if tensor.is_complex() else torch.float64)


def is_continuous(value: object) -> TypeGuard[Tensor]:
    """Whether means of ``value`` make sense; integers, booleans and what is no tensor at all have none."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def is_half(value: object) -> TypeGuard[Tensor]:
    """Whether ``value`` is a tensor in half precision."""
    return isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)


def comparable(tensor: Tensor) -> Tensor:
    """``tensor``, in fp32 where it is in fp8, of which torch takes no maximum and compares no values."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def widened(tensor: Tensor) -> Tensor:
    """``tensor``, in fp32 where it is in half precision."""
    return tensor.float() if is_half(tensor) else tensor

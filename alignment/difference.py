"""How far apart two runs of a network are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """The greatest |a - b|, and the greatest of it relative to the largest |a| of the same tensor."""

    absolute: float
    relative: float


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> Difference:
    """How far ``b`` is from ``a``, tensor by tensor; infinite where shapes or non-finite values disagree."""
    if [tensor.shape for tensor in a] != [tensor.shape for tensor in b]:
        return Difference(torch.inf, torch.inf)
    each = [_one(x, y) for x, y in zip(a, b, strict=True) if x.numel()]
    return Difference(max((d.absolute for d in each), default=0.0), max((d.relative for d in each), default=0.0))


def _one(a: Tensor, b: Tensor) -> Difference:
    x, y = _real(a), _real(b)
    same = (x == y) | (x.isnan() & y.isnan())
    gap = torch.where(same, 0.0, (x - y).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf).max().item()
    scale = x[x.isfinite()].abs().max().item() if bool(x.isfinite().any()) else 0.0
    return Difference(gap, gap / scale if scale else gap)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()

"""Correlations between the units of two networks, from sums that stream over batches."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from alignment.precision import as_double, widened

Rows = Float[Tensor, "units samples"]


class Correlation:
    """Σa, Σb, Σa², Σb² and Σabᵀ of the units of two networks on the same samples. No sample is kept.

    Sums are fp64, of values less a constant near their mean (that of the first batch), so that nothing cancels; within
    a batch, products are summed in the activations' precision, fp32 at least. For these each unit's values are brought
    near 1, by a power of two: products of large ones would overflow, and those of small ones vanish.
    """

    def __init__(self, first: Rows, second: Rows) -> None:
        units = len(first)
        self._near = [as_double(rows).mean(1, keepdim=True) for rows in (first, second)]
        self._scale = [
            _to_size_one(as_double(rows) - near) for rows, near in zip((first, second), self._near, strict=True)
        ]
        self._count = 0
        self._sums, self._squares = torch.zeros(2, 2, units, dtype=torch.float64)
        self._products = torch.zeros(units, units, dtype=torch.float64)
        self.add(first, second)

    def add(self, first: Rows, second: Rows) -> None:
        """Adds samples."""
        self._count += first.shape[1]
        centred: list[Tensor] = []
        for k, rows in enumerate((first, second)):
            wide = (as_double(rows) - self._near[k]).mul_(self._scale[k])
            self._sums[k] += wide.sum(1).cpu()
            self._squares[k] += wide.square().sum(1).cpu()
            centred.append(wide.to(widened(rows)))
        self._products += as_double(centred[0] @ centred[1].T).cpu()

    def matrix(self) -> Float64[Tensor, "units units"]:
        """C[i, j] in -1..1, of the first network's unit i and the second's j; 0 where one of them never varies."""
        means = self._sums / self._count
        variances = self._squares / self._count - means.square()
        covariance = self._products / self._count - torch.outer(means[0], means[1])
        scale = torch.outer(*(torch.where(v > 0, v.clamp(min=0).rsqrt(), 0.0) for v in variances))
        return (covariance * scale).nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)


def _to_size_one(rows: Float64[Tensor, "units samples"]) -> Float64[Tensor, "units 1"]:
    """A power of two for each unit that brings its values near 1."""
    largest = rows.abs().amax(1, keepdim=True)
    return torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp(min=-1000))

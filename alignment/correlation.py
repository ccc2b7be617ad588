"""Correlations between the units of two networks, from sums that stream over batches."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from alignment.precision import as_double, widened

Rows = Float[Tensor, "units samples"]


class Correlation:
    """Σa, Σb, Σa², Σb² and Σabᵀ of the units of two networks on the same samples. No sample is kept.

    Sums are fp64, of values less a constant near their mean (that of the first batch), so that nothing cancels.
    """

    def __init__(self, first: Rows, second: Rows) -> None:
        units = len(first)
        self._near = [as_double(rows).mean(1).to(widened(rows)) for rows in (first, second)]
        self._count = 0
        self._sums, self._squares = torch.zeros(2, 2, units, dtype=torch.float64)
        self._products = torch.zeros(units, units, dtype=torch.float64)
        self.add(first, second)

    def add(self, first: Rows, second: Rows) -> None:
        """Adds samples."""
        # In half precision sums of products would overflow.
        a, b = (widened(rows) - near[:, None] for rows, near in zip((first, second), self._near, strict=True))
        self._count += a.shape[1]
        for k, rows in enumerate((a, b)):
            wide = as_double(rows)
            self._sums[k] += wide.sum(1).cpu()
            self._squares[k] += wide.square().sum(1).cpu()
        self._products += as_double(a @ b.T).cpu()

    def matrix(self) -> Float64[Tensor, "units units"]:
        """C[i, j] in -1..1, of the first network's unit i and the second's j; 0 where one of them never varies."""
        means = self._sums / self._count
        variances = self._squares / self._count - means.square()
        covariance = self._products / self._count - torch.outer(means[0], means[1])
        scale = torch.outer(*(torch.where(v > 0, v.clamp(min=0).rsqrt(), 0.0) for v in variances))
        return (covariance * scale).nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)

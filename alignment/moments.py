"""Means and variances per channel, from sums that pool exactly.

Moments are plain fp64 tensors under flat names, so that they cross a wire as they are. For a layer ``L``:

=============  ======================  ==================================
``L.count``    shape ()                values seen in each channel
``L.sum``      shape (channels,)       their sum
``L.squares``  shape (channels,)       the sum of their squares
=============  ======================  ==================================
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor

from alignment.errors import StateError

Moments = Mapping[str, Tensor]


def add_moments(moments: dict[str, Tensor], layer: str, values: Tensor, axis: int) -> None:
    """Adds ``values`` to the moments of ``layer``, in place; ``axis`` is that of the channels."""
    seen = values.detach()
    seen = seen.cpu() if seen.device.type == "mps" else seen
    others = [dim for dim in range(seen.ndim) if dim != axis % seen.ndim]
    # A reduction that widens as it goes needs no wide copy of the activations.
    norm = cast(Tensor, torch.linalg.vector_norm(seen, dim=others, dtype=torch.float64))
    parts = {
        "count": torch.tensor(seen.numel() / seen.shape[axis], dtype=torch.float64),
        "sum": seen.sum(others, dtype=torch.float64).cpu(),
        "squares": norm.square().cpu(),
    }
    accumulate(moments, {f"{layer}.{part}": value for part, value in parts.items()})


def accumulate(sums: dict[str, Tensor], parts: Moments) -> None:
    """Adds ``parts`` to the sums of their names, in place; what is new there begins with its part."""
    for name, value in parts.items():
        sums[name] = sums[name] + value if name in sums else value


def layers_of(moments: Moments) -> list[str]:
    """The layers that ``moments`` speaks of, in its order."""
    return [key.removesuffix(".count") for key in moments if key.endswith(".count")]


def mean_and_variance(
    moments: Moments, layer: str
) -> tuple[float, Float64[Tensor, "channels"], Float64[Tensor, "channels"]]:
    """Count, mean and (biased) variance of each channel of ``layer``."""
    count = moments[f"{layer}.count"].item()
    mean = moments[f"{layer}.sum"].double() / count
    variance = moments[f"{layer}.squares"].double() / count - mean.square()
    return count, mean, variance.clamp(min=0)


def pool_moments(parts: Sequence[Moments]) -> dict[str, Tensor]:
    """The moments of all samples together, of moments taken apart: their sum, in the order of the list.

    Raises `StateError` when the parts do not speak of the same layers and channels.
    """
    if not parts:
        raise StateError("no moments to pool")
    for position, part in enumerate(parts):
        if unshared := sorted(set(parts[0]) ^ set(part)):
            raise StateError(f"moments {unshared[0]!r} are not in both part 0 and part {position}")
        if odd := [name for name, tensor in part.items() if tensor.shape != parts[0][name].shape]:
            raise StateError(f"moments {odd[0]!r} of part {position} have another shape than those of part 0")
    return {name: torch.stack([part[name].double() for part in parts]).sum(0) for name in parts[0]}

"""The weighted mean of networks, in the order given, with one tensor of one network in memory at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment.interpolate import normalised
from alignment.precision import is_continuous
from alignment.spec import State
from strategies.pieces import pieces

own_arithmetic = (torch.float32, torch.float64)


def exact_mean(states: Sequence[State], weights: Sequence[float], reference: State) -> dict[str, Tensor]:
    """Σ wᵢ·θᵢ / Σ wᵢ in fp64, rounded once to each tensor's dtype; integer tensors are ``reference``'s.

    Integers are counters (``num_batches_tracked``) or tables: their mean means nothing.
    """
    factors = normalised(weights, len(states))
    return {
        name: _sum(name, states, factors, torch.float64).to(like.dtype) if is_continuous(like) else like.clone()
        for name, like in reference.items()
    }


def fedavg_mean(states: Sequence[State], weights: Sequence[float], reference: State) -> dict[str, Tensor]:
    """Flower's FedAvg, bit for bit, on single and double precision tensors: Σ (wᵢ / Σw)·θᵢ in the tensor's own dtype.

    Half precision goes through fp64 all the same, since summing it in half loses percents. Integers are
    ``reference``'s.
    """
    factors = normalised(weights, len(states))
    others = {name: like for name, like in reference.items() if like.dtype not in own_arithmetic}
    exact = exact_mean(states, weights, others)
    return {
        name: exact[name] if name in exact else _sum(name, states, factors, like.dtype)
        for name, like in reference.items()
    }


def _sum(name: str, states: Sequence[State], factors: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Σ factor · tensor from the left, in ``dtype``: the order decides the last bit."""
    # Contiguous, so that its pieces are views of it: a tensor may have come by column.
    total = (states[0][name].to(dtype) * factors[0]).contiguous()
    parts = pieces(total)
    for state, factor in zip(states[1:], factors[1:], strict=True):
        # Product and sum apart, as FedAvg forms them: fused, the last bit could differ. Some numbers at a time, which
        # stay in the cache in between.
        for part, values in zip(parts, pieces(state[name]), strict=True):
            part += values.to(dtype) * factor
    return total

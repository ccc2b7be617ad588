"""The weighted mean of networks, in the order given."""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from alignment.interpolate import normalised, weighted_mean
from alignment.precision import is_continuous

State = Mapping[str, Tensor]
own_arithmetic = (torch.float32, torch.float64)


def exact_mean(states: Sequence[State], weights: Sequence[float], reference: State) -> dict[str, Tensor]:
    """Σ wᵢ·θᵢ / Σ wᵢ in fp64, rounded once to each tensor's dtype; integer tensors are ``reference``'s.

    Integers are counters (``num_batches_tracked``) or tables: their mean means nothing.
    """
    mean = weighted_mean(states, normalised(weights, len(states)))
    return {name: mean[name] if is_continuous(like) else like.clone() for name, like in reference.items()}


def fedavg_mean(states: Sequence[State], weights: Sequence[float], reference: State) -> dict[str, Tensor]:
    """Flower's FedAvg, bit for bit, on single and double precision tensors: Σ (wᵢ / Σw)·θᵢ in the tensor's own dtype.

    Half precision goes through fp64 all the same, since summing it in half loses percents. Integers are
    ``reference``'s.
    """
    total = sum(weights)
    factors = [weight / total for weight in weights]
    mean = exact_mean(states, weights, reference)
    for name in (name for name, like in reference.items() if like.dtype in own_arithmetic):
        terms = [state[name] * factor for state, factor in zip(states, factors, strict=True)]
        # From the left, as FedAvg adds: the order decides the last bit.
        mean[name] = reduce(torch.add, terms)
    return mean

"""Points on the straight path between networks, and their weighted mean."""

from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from alignment.errors import StateError
from alignment.precision import as_double, is_continuous
from alignment.spec import State
from alignment.validate import check_one_each


def interpolate(reference: State, candidate: State, lam: float) -> dict[str, Tensor]:
    """(1 - λ) · reference + λ · candidate, with the keys, order, dtypes and devices of ``reference``.

    Computed in fp64. Integers, and what is no tensor (`get_extra_state`), have no mean: they are copied from
    ``reference``. A pure map: values that are not finite pass through it. Raises `StateError` when the two differ in
    a key or a shape.
    """
    return weighted_mean((reference, candidate), (1 - lam, lam))


def weighted_mean(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Σ w_k · state_k in fp64, summed in the order of the list.

    Integers and dtypes are those of the first state. The weights are used as they are; see `normalised`.
    Raises `StateError` when a state differs from the first in a key or a shape, or in what is a tensor, `ValueError`
    unless there is one weight for each of at least one state.
    """
    check_one_each("weight", len(weights), len(states))
    for position, state in enumerate(states):
        _check_alike(states[0], state, position)
    return {name: _mean([state[name] for state in states], weights) for name in states[0]}


def normalised(weights: Sequence[float] | None, n_states: int) -> list[float]:
    """``weights`` divided by their sum; equal ones for None.

    Raises `ValueError` unless there is one weight for each state and all are positive and finite.
    """
    given = [1.0] * n_states if weights is None else list(weights)
    check_one_each("weight", len(given), n_states)
    if not all(isfinite(weight) and weight > 0 for weight in given):
        raise ValueError(f"weights must be positive and finite, got {given}")
    total = sum(given)
    if not isfinite(total):
        raise ValueError(f"the sum of the weights is not finite, got {given}")
    return [weight / total for weight in given]


def _mean(tensors: Sequence[Any], weights: Sequence[float]) -> Any:
    first: object = tensors[0]
    if not is_continuous(first):
        return deepcopy(first)
    total = torch.zeros_like(as_double(first))
    for tensor, weight in zip(tensors, weights, strict=True):
        # What has no weight has no say, also where it is not finite.
        if weight:
            total += weight * as_double(tensor).to(total.device)
    return total.to(first.device, first.dtype)


def _check_alike(first: State, state: State, position: int) -> None:
    if unshared := sorted(set(first) ^ set(state)):
        raise StateError(f"tensor {unshared[0]!r} is not in both state 0 and state {position}")
    for name, tensor in first.items():
        if torch.is_tensor(tensor) != torch.is_tensor(state[name]):
            raise StateError(f"{name!r} is a tensor in one of state 0 and state {position}, and none in the other")
        if torch.is_tensor(tensor) and tensor.shape != state[name].shape:
            raise StateError(
                f"tensor {name!r} has shape {tuple(tensor.shape)} in state 0, "
                f"{tuple(state[name].shape)} in state {position}"
            )

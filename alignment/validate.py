"""What states must be before they can be matched or merged."""

import torch
from torch import Tensor

from alignment.errors import StateError
from alignment.precision import comparable, is_continuous
from alignment.spec import PermutationSpec, State


def check_pair(spec: PermutationSpec, reference: State, candidate: State) -> None:
    """Raises `StateError` unless both states fit the spec and each other and are finite."""
    check_fit(spec, reference, candidate)
    check_finite(reference, "reference")
    check_finite(candidate, "candidate")


def check_fit(spec: PermutationSpec, reference: State, candidate: State) -> None:
    """Raises `StateError` unless both states fit the spec and each other."""
    spec.check_state(reference, "reference")
    spec.check_state(candidate, "candidate")
    if unshared := sorted(set(reference) ^ set(candidate)):
        raise StateError(f"tensor {unshared[0]!r} is not in both the reference and the candidate")


def check_one_each(what: str, n_given: int, n_states: int) -> None:
    """Raises `ValueError` unless there is one of ``what`` for each state, and a state."""
    if n_given != n_states or n_states == 0:
        raise ValueError(f"expected one {what} for each of at least one state, got {n_given} for {n_states}")


def check_finite(state: State, role: str) -> None:
    """Raises `StateError` that names the first tensor of ``state`` with a value that is not finite, or with none."""
    if empty := next((name for name, tensor in state.items() if torch.is_tensor(tensor) and tensor.is_meta), ""):
        raise StateError(f"{role}: tensor {empty!r} is on the device meta, which holds no values")
    if broken := not_finite(state):
        raise StateError(f"{role}: tensor {broken!r} has a value that is not finite")


def not_finite(state: State) -> str:
    """The name of the first tensor of ``state`` with a value that is not finite; empty where all are."""
    return next((n for n, t in state.items() if is_continuous(t) and t.numel() and not _is_finite(t)), "")


def _is_finite(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided:
        return bool(tensor.to_dense().isfinite().all())
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # One pass and no copy; a NaN is both the least and the greatest value.
    return bool(torch.stack(comparable(real).aminmax()).isfinite().all())

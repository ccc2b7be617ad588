"""What two states must be before they can be matched."""

import torch
from torch import Tensor

from alignment.errors import StateError
from alignment.spec import PermutationSpec, State


def check_pair(spec: PermutationSpec, reference: State, candidate: State) -> None:
    """Raises `StateError` unless both states fit the spec and each other and are finite."""
    spec.check_state(reference, "reference")
    spec.check_state(candidate, "candidate")
    if unshared := sorted(set(reference) ^ set(candidate)):
        raise StateError(f"tensor {unshared[0]!r} is not in both the reference and the candidate")
    for role, state in (("reference", reference), ("candidate", candidate)):
        for name, tensor in state.items():
            if not _is_finite(tensor):
                raise StateError(f"{role}: tensor {name!r} has a value that is not finite")


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # One pass and no copy; a NaN is both the least and the greatest value.
    return bool(torch.stack(tensor.aminmax()).isfinite().all())

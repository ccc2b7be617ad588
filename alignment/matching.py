"""What a matcher returns: one permutation per group, and how it was found."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.permutation import Permutation, check_permutation
from alignment.real import real_pair
from alignment.spec import PermutationSpec, State
from alignment.validate import check_pair


@dataclass(frozen=True)
class Matching:
    """The permutation that brings a candidate to a reference.

    permutation  one index tensor per group; see `alignment.permutation`
    objective    Σ ⟨W_ref, P(W_cand)⟩ over the tensors of the spec that are no buffers, in fp64
    gain         objective minus that of the identity permutation
    sweeps       passes over the groups, of the restart that was kept
    converged    whether the last pass changed nothing past the tolerance
    """

    permutation: Mapping[str, Tensor]
    objective: float
    gain: float
    sweeps: int
    converged: bool

    @property
    def moved(self) -> dict[str, float]:
        """The fraction, 0..1, of each group's units that the permutation moves."""
        return {name: _fraction_moved(index) for name, index in self.permutation.items()}


@torch.no_grad()
def judged(spec: PermutationSpec, reference: State, candidate: State, permutation: Permutation) -> Matching:
    """The matching that ``permutation``, found elsewhere, is: its objective and gain, after no sweep.

    Raises `SpecError` when it is no permutation of the spec, `StateError` for states that do not fit.
    """
    check_pair(spec, reference, candidate)
    check_permutation(spec, permutation)
    pair = real_pair(spec, reference, candidate)
    objective = pair.objective(permutation)
    return Matching(permutation, objective, objective - pair.baseline, 0, True)


def _fraction_moved(index: Tensor) -> float:
    return (index != torch.arange(index.shape[-1], device=index.device)).double().mean().item()

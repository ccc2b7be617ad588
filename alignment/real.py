"""Complex tensors as real ones."""

import torch
from torch import Tensor

from alignment.pair import Pair
from alignment.spec import Axis, Factor, PermutationSpec, State

_PARTS: Axis = ((Factor(2),),)


def real_pair(spec: PermutationSpec, reference: State, candidate: State) -> Pair:
    """The two states under comparison; complex tensors have their two parts on a last axis, which stays.

    ⟨a, b⟩ is then Re Σ a · conj(b), and ‖a - b‖² is what it was, so that the most of one is the least of the other.
    """
    complex_ = {name for name in spec.axes if any(state[name].is_complex() for state in (reference, candidate))}
    if not complex_:
        return Pair(spec, reference, candidate)
    axes = {name: (*axes, _PARTS) if name in complex_ else axes for name, axes in spec.axes.items()}
    seen = [{name: _seen(t) if name in complex_ else t for name, t in s.items()} for s in (reference, candidate)]
    return Pair(PermutationSpec(spec.groups, axes, spec.parents, spec.buffers), *seen)


def _seen(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.to(torch.promote_types(tensor.dtype, torch.complex64)))

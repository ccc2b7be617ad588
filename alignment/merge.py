"""The aligned mean of two networks: Git Re-Basin (arXiv 2209.04836) in one call."""

import torch
from torch import Tensor

from alignment.interpolate import interpolate
from alignment.permutation import permute
from alignment.spec import PermutationSpec, State
from alignment.weight_matching import match_weights


def merge(
    spec: PermutationSpec,
    reference: State,
    candidate: State,
    weight: float = 0.5,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """(1 - weight) · ``reference`` + weight · π(``candidate``), π the permutation that `match_weights` finds.

        spec = derive_spec(model, (x,))
        model.load_state_dict(merge(spec, reference, candidate))
        recalibrate(model, batches)  # when it has BatchNorm: without it the mean is at chance

    Needs no data. Raises `StateError` for states that do not fit the spec.
    """
    matching = match_weights(spec, reference, candidate, generator=generator)
    return interpolate(reference, permute(spec, matching.permutation, candidate), weight)

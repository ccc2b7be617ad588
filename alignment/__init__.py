"""Bring networks into one basin: Git Re-Basin (arXiv 2209.04836) for any `torch.nn.Module`.

Tensors in, tensors out: no files, no clock, randomness only through a `torch.Generator` that the caller hands in::

    spec = derive_spec(model, (example,))
    matching = match_weights(spec, reference, candidate)
    aligned = permute(spec, matching.permutation, candidate)
"""

from alignment.activation_matching import match_activations
from alignment.barrier import Barrier, loss_barrier
from alignment.batch_norm import batch_norm_moments, recalibrate, write_moments
from alignment.check import check_spec
from alignment.errors import AlignmentError, BatchError, SpecError, StateError
from alignment.interpolate import interpolate
from alignment.matching import Matching
from alignment.merge import merge
from alignment.merge_many import merge_many
from alignment.moments import pool_moments
from alignment.permutation import compose, identity_permutation, invert, permute, random_permutation
from alignment.repair import repair
from alignment.spec import PermutationSpec
from alignment.straight_through import match_straight_through
from alignment.tracing import derive_spec
from alignment.weight_matching import match_weights

__all__ = [
    "AlignmentError",
    "Barrier",
    "BatchError",
    "Matching",
    "PermutationSpec",
    "SpecError",
    "StateError",
    "batch_norm_moments",
    "check_spec",
    "compose",
    "derive_spec",
    "identity_permutation",
    "interpolate",
    "invert",
    "loss_barrier",
    "match_activations",
    "match_straight_through",
    "match_weights",
    "merge",
    "merge_many",
    "permute",
    "pool_moments",
    "random_permutation",
    "recalibrate",
    "repair",
    "write_moments",
]

"""Likeness of units as a weight matching problem, so that one ascent serves every kind of evidence.

Weight matching climbs Σ ⟨R, P(C)⟩ over tensors with axes that move. Any table of gains, A[i, j] for unit j of the
candidate in the place of unit i, is such a term: R = A and C = 1, the rows of C permuted, give Σ_i A[i, p(i)].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.channels import along
from alignment.precision import as_double
from alignment.spec import Axis, Factor, PermutationSpec, State
from alignment.units import Key, is_whole, key_of, n_units, segment_of, spread, unit_rows


@dataclass(frozen=True)
class Term:
    """One tensor of the problem."""

    axes: tuple[Axis, ...]
    reference: Tensor
    candidate: Tensor


def table_term(spec: PermutationSpec, key: Key, gains: Tensor) -> Term:
    """The term Σ_i gains[i, p(i)] over the units of ``key``."""
    units = n_units(spec, key)
    axes: tuple[Axis, ...] = ((segment_of(spec, key),), ((Factor(units),),))
    return Term(axes, gains.float(), torch.eye(units))


def cosine_terms(
    spec: PermutationSpec, reference: State, candidate: State, share: Mapping[Key, float]
) -> Iterator[Term]:
    """Terms that add up to Σ share · cosine of the weights of the unit and of the one in its place.

    The weights of a unit are all that lies at its positions, on all tensors; a tensor on which two groups move counts
    for each. Their norms do not depend on any permutation, so that each tensor only needs scaling, once for each axis.
    """
    norms = [_norms(spec, state) for state in (reference, candidate)]
    wanted = {key: norm * 0 + share.get(key, 0.0) for key, norm in norms[0].items()}
    for tensor, number, axis in _moving_axes(spec, reference):
        weights = spread(axis, wanted)
        if weights.any():
            of_reference, of_candidate = (
                _scaled(state[tensor], number, spread(axis, norm).reciprocal().nan_to_num(posinf=0.0))
                for state, norm in zip((reference, candidate), norms, strict=True)
            )
            yield Term(spec.axes[tensor], of_reference * along(number, weights, of_reference), of_candidate)


def combined(
    spec: PermutationSpec, terms: Iterable[Term]
) -> tuple[PermutationSpec, dict[str, Tensor], dict[str, Tensor]]:
    """The spec, the reference and the candidate whose weight matching climbs the sum of ``terms``."""
    named = {str(number): term for number, term in enumerate(terms)}
    axes = {name: term.axes for name, term in named.items()}
    reference = {name: term.reference for name, term in named.items()}
    candidate = {name: term.candidate for name, term in named.items()}
    return PermutationSpec(spec.groups, axes, spec.parents), reference, candidate


def _norms(spec: PermutationSpec, state: State) -> dict[Key, Tensor]:
    squares: dict[Key, Tensor] = {}
    for tensor, number, axis in _moving_axes(spec, state):
        for key, rows in unit_rows(axis, as_double(state[tensor]).cpu(), number):
            squares[key] = squares.get(key, 0) + rows.square().sum(1)
    return {key: total.sqrt() for key, total in squares.items()}


def _moving_axes(spec: PermutationSpec, state: State) -> Iterator[tuple[str, int, Axis]]:
    """The axes on which whole units lie, of the tensors that tell of likeness."""
    for tensor, axes in spec.axes.items():
        if tensor in spec.buffers or not state[tensor].is_floating_point():
            continue
        for number, axis in enumerate(axes):
            if any(map(key_of, axis)) and is_whole(spec, axis):
                yield tensor, number, axis


def _scaled(tensor: Tensor, number: int, scale: Tensor) -> Tensor:
    wide = tensor.cpu().float()
    return wide * along(number, scale, wide)

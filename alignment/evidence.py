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
from alignment.permutation import beside
from alignment.precision import as_double
from alignment.spec import Axis, Block, Factor, PermutationSpec, State
from alignment.units import Key, is_whole, key_of, n_units, segment_of, spread, unit_rows


@dataclass(frozen=True)
class Term:
    """One tensor of the problem."""

    axes: tuple[Axis, ...]
    reference: Tensor
    candidate: Tensor


@dataclass(frozen=True)
class _Place:
    """A block, and the axes of its view on which a family and its parent lie."""

    block: Block
    family: str
    axis: int
    parent: int

    def of(self, state: State) -> Tensor:
        """The block of ``state``, in its view."""
        return self.block.of(state[self.block.tensor]).cpu()

    def laid(self, values: Tensor) -> Tensor:
        """``values``, [parent's units, units], shaped to lie on the two axes."""
        return beside(values, self.parent, self.axis, len(self.block.view))


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
    Of a family that lies on no axis with its parent (experts stacked in one tensor) the share is 1: it is read nowhere.
    """
    norms = [_norms(spec, state) for state in (reference, candidate)]
    wanted = {key: norm * 0 + share.get(key, 0.0) for key, norm in norms[0].items()}
    for tensor, number, axis in _moving_axes(spec, reference):
        weights = spread(axis, wanted)
        if weights.any():
            of_reference, of_candidate = (
                _scaled(state[tensor], number, _inverse(spread(axis, norm)))
                for state, norm in zip((reference, candidate), norms, strict=True)
            )
            yield Term(spec.axes[tensor], of_reference * along(number, weights, of_reference), of_candidate)
    yield from _terms_of_families_apart(spec, reference, candidate)


def combined(
    spec: PermutationSpec, terms: Iterable[Term]
) -> tuple[PermutationSpec, dict[str, Tensor], dict[str, Tensor]]:
    """The spec, the reference and the candidate whose weight matching climbs the sum of ``terms``."""
    named = {str(number): term for number, term in enumerate(terms)}
    axes = {name: term.axes for name, term in named.items()}
    reference = {name: term.reference for name, term in named.items()}
    candidate = {name: term.candidate for name, term in named.items()}
    return PermutationSpec(spec.groups, axes, spec.parents), reference, candidate


def _terms_of_families_apart(spec: PermutationSpec, reference: State, candidate: State) -> Iterator[Term]:
    places = list(_families_apart(spec, reference))
    norms = [_norms_apart(places, state) for state in (reference, candidate)]
    for place in places:
        axes: tuple[Axis, ...] = tuple(
            ((Factor(size, group),),) for size, group in zip(place.block.view, place.block.groups, strict=True)
        )
        of_reference, of_candidate = (
            (as_double(place.of(state)) * place.laid(_inverse(norm[place.family]))).float()
            for state, norm in zip((reference, candidate), norms, strict=True)
        )
        yield Term(axes, of_reference, of_candidate)


def _norms_apart(places: Iterable[_Place], state: State) -> dict[str, Tensor]:
    """Of each family one norm for every unit below every unit of its parent."""
    squares: dict[str, Tensor] = {}
    for place in places:
        rows = as_double(place.of(state)).movedim((place.parent, place.axis), (0, 1))
        total = rows.square().reshape(*rows.shape[:2], -1).sum(2)
        squares[place.family] = squares.get(place.family, 0) + total
    return {family: total.sqrt() for family, total in squares.items()}


def _families_apart(spec: PermutationSpec, state: State) -> Iterator[_Place]:
    """Where the families lie that lie on no axis with their parent."""
    together = {group for _, _, axis in _moving_axes(spec, state) for key in map(key_of, axis) for group in key}
    for block in spec.blocks:
        if block.tensor not in spec.buffers and state[block.tensor].is_floating_point():
            for axis, (group, parent) in enumerate(zip(block.groups, block.parents, strict=True)):
                if group is not None and parent is not None and group not in together:
                    yield _Place(block, group, axis, parent)


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


def _inverse(norms: Tensor) -> Tensor:
    return norms.reciprocal().nan_to_num(posinf=0.0)


def _scaled(tensor: Tensor, number: int, scale: Tensor) -> Tensor:
    # Weight decay takes the weights of dead units so low that fp32 has no inverse of their norms.
    wide = as_double(tensor.cpu())
    return (wide * along(number, scale, wide)).float()

"""The best places for a parent's units together with the best permutation below each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import torch
from torch import Tensor

from alignment.assignment import assign

ALTERNATIONS = 10


@dataclass(frozen=True)
class Coupling:
    """A tensor on which several families lie below the same unit: shape (parent units, units of each family…, rest)."""

    families: tuple[str, ...]
    reference: Tensor
    candidate: Tensor


@dataclass(frozen=True)
class Evidence:
    """What is known of a parent and its families, columns counting the candidate's own units.

    parent     A[j, a]: gain of the candidate's unit a at position j, apart from all below it
    families   A[j, v, a, w] of each family: gain of a's w at v below j
    couplings  what depends on several families at once
    """

    parent: Tensor
    families: Mapping[str, Tensor]
    couplings: Sequence[Coupling]


def joint_assignment(
    evidence: Evidence, parent: Tensor, rows: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The parent's permutation and the families' rows that gain most, given those of the present.

    cost[j, a] = A[j, a] + max Σ over the families of what lies below a, were a at j; then one assignment over cost.
    Exact unless there are couplings, which are solved by alternation from the rows that a has now: never a fall.
    Cost: one assignment of a family's units for each pair of parent units.
    """
    units = len(parent)
    seat = parent.argsort()
    value = evidence.parent.double().clone()
    below = {name: torch.empty(units, units, rows[name].shape[1], dtype=torch.int64) for name in rows}
    for j in range(units):
        for a in range(units):
            found = {name: rows[name][seat[a]] for name in rows}
            value[j, a] += _solve_below(evidence, j, a, found)
            for name, index in found.items():
                below[name][j, a] = index
    best = assign(value, parent)
    return best, {name: index[torch.arange(units), best] for name, index in below.items()}


def _solve_below(evidence: Evidence, j: int, a: int, rows: dict[str, Tensor]) -> float:
    """What a gains at j from all below it; ``rows`` are brought to where that is found."""
    coupled = {name for coupling in evidence.couplings for name in coupling.families}
    value = 0.0
    for name in [each for each in rows if each not in coupled]:
        rows[name], gained = _best(_linear(evidence, name, j, a), rows[name])
        value += gained
    return value + _alternate(evidence, sorted(coupled), j, a, rows)


def _alternate(evidence: Evidence, names: Sequence[str], j: int, a: int, rows: dict[str, Tensor]) -> float:
    for _ in range(ALTERNATIONS if names else 0):
        before = dict(rows)
        for name in names:
            rows[name], _ = _best(_conditional(evidence, name, j, a, rows), rows[name])
        if all(torch.equal(rows[name], before[name]) for name in names):
            break
    linear = fsum(_at(_linear(evidence, name, j, a), rows[name]) for name in names)
    return linear + fsum(_coupled_value(coupling, j, a, rows) for coupling in evidence.couplings)


def _conditional(evidence: Evidence, name: str, j: int, a: int, rows: Mapping[str, Tensor]) -> Tensor:
    """A family's gains with the other families at ``rows``."""
    total = _linear(evidence, name, j, a).clone()
    for coupling in evidence.couplings:
        for axis in (axis for axis, family in enumerate(coupling.families) if family == name):
            given = _permuted(coupling, a, rows, skip=axis).movedim(axis, 0).flatten(1)
            total += coupling.reference[j].movedim(axis, 0).flatten(1) @ given.T
    return total


def _coupled_value(coupling: Coupling, j: int, a: int, rows: Mapping[str, Tensor]) -> float:
    return (coupling.reference[j].double() * _permuted(coupling, a, rows).double()).sum().item()


def _permuted(coupling: Coupling, a: int, rows: Mapping[str, Tensor], skip: int | None = None) -> Tensor:
    tensor = coupling.candidate[a]
    for axis, family in enumerate(coupling.families):
        if axis != skip:
            tensor = tensor.index_select(axis, rows[family])
    return tensor


def _linear(evidence: Evidence, name: str, j: int, a: int) -> Tensor:
    return evidence.families[name][j, :, a]


def _best(gain: Tensor, incumbent: Tensor) -> tuple[Tensor, float]:
    best = assign(gain, incumbent)
    return best, _at(gain, best)


def _at(gain: Tensor, assignment: Tensor) -> float:
    return gain.gather(1, assignment[:, None]).double().sum().item()

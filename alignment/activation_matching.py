"""Activation matching (Git Re-Basin, arXiv 2209.04836, section 3.1), by centred correlation."""

from collections.abc import Iterable
from math import isfinite

import torch
from torch import Tensor, nn

from alignment.batches import Batch, first_inputs, inputs_of, network_with, reusable
from alignment.correlation import Correlation
from alignment.evidence import combined, cosine_terms, table_term
from alignment.matching import Matching
from alignment.real import real_pair
from alignment.spec import PermutationSpec, State
from alignment.taps import Tap, find_taps, look
from alignment.units import Key, key_of, unit_rows
from alignment.validate import check_pair
from alignment.weight_matching import match_weights

TIE_BREAK = 1e-4
"""Weight of the cosines where units never vary: it outweighs no correlation, and tells such units apart."""


@torch.no_grad()
def match_activations(
    spec: PermutationSpec,
    model: nn.Module,
    reference: State,
    candidate: State,
    batches: Iterable[Batch],
    weight: float = 0.0,
    generator: torch.Generator | None = None,
) -> Matching:
    """The permutation of ``candidate`` under which its units vary as those of ``reference`` do on the same inputs.

    For each group it maximises Σ_i c(i, p(i)), c the correlation of unit i of the reference with unit p(i) of the
    candidate, over samples and positions, averaged over the places where the group is read (see `find_taps`). Centred,
    unlike E[abᵀ] of the paper: means carry no information on which unit is which, yet would decide.

    With ``weight`` > 0 each unit's term is c + weight · cosine of the two units' weights, all that they touch, other
    groups permuted; the sum is then climbed as weight matching climbs its own. Groups that are read nowhere are
    matched by these cosines alone, whatever ``weight``; so are units that never vary.

    ``objective`` and ``gain`` are those of the weights, so that matchings compare; ``gain`` may be negative. Both
    networks run in eval mode. Memory: the activations of one batch, and a matrix of fp64 for each place.
    ``generator`` orders the visits; it matters only where weights are used. Raises `StateError` for states that do not
    fit the spec or the model or are not finite, `BatchError` for data that is not, `ValueError` without batches and for
    a ``weight`` that is none.
    """
    if not (isfinite(weight) and weight >= 0):
        raise ValueError(f"weight must be 0 or more and finite, got {weight}")
    check_pair(spec, reference, candidate)
    tables = _correlations(spec, model, reference, candidate, batches)
    terms = [table_term(spec, key, table) for key, table in tables.items()]
    unread = {key: 1.0 for axes in spec.axes.values() for axis in axes for key in map(key_of, axis) if key}
    read = {key: max(weight, TIE_BREAK) if _has_silent_units(table) else weight for key, table in tables.items()}
    pair = real_pair(spec, reference, candidate)
    terms += cosine_terms(pair.spec, pair.reference, pair.candidate, unread | read)
    found = match_weights(*combined(spec, terms), generator=generator)
    objective = pair.objective(found.permutation)
    return Matching(found.permutation, objective, objective - pair.baseline, found.sweeps, found.converged)


def _correlations(
    spec: PermutationSpec, model: nn.Module, reference: State, candidate: State, batches: Iterable[Batch]
) -> dict[Key, Tensor]:
    """For each key that is read, the mean of its correlations over the places where it is."""
    networks = [network_with(model, state) for state in (reference, candidate)]
    kept = reusable(batches)
    taps = find_taps(spec, model, reference, first_inputs(kept, networks[0])[:2])
    places = {tap.place for tap in taps}
    correlations: dict[tuple[Tap, int], tuple[Key, Correlation]] = {}
    for inputs in inputs_of(kept, networks[0]):
        seen = [look(network, inputs, places) for network in networks]
        for tap in taps:
            _add(correlations, tap, *(one[tap.place] for one in seen))
    return _means(correlations.values())


def _add(
    correlations: dict[tuple[Tap, int], tuple[Key, Correlation]], tap: Tap, reference: Tensor, candidate: Tensor
) -> None:
    pairs = zip(*(unit_rows(tap.axis, tensor, tap.number) for tensor in (reference, candidate)), strict=True)
    for segment, ((key, first), (_, second)) in enumerate(pairs):
        if (tap, segment) in correlations:
            correlations[tap, segment][1].add(first, second)
        else:
            correlations[tap, segment] = key, Correlation(first, second)


def _means(correlations: Iterable[tuple[Key, Correlation]]) -> dict[Key, Tensor]:
    tables: dict[Key, list[Tensor]] = {}
    for key, correlation in correlations:
        tables.setdefault(key, []).append(correlation.matrix())
    return {key: torch.stack(found).mean(0) for key, found in tables.items()}


def _has_silent_units(table: Tensor) -> bool:
    return not bool(table.any(0).all() and table.any(1).all())

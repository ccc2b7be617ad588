"""Weight matching: Algorithm 1 of Git Re-Basin (arXiv 2209.04836, section 3.2), exact and without idle work."""

import torch

from alignment.ascent import Ascent
from alignment.flat import Position
from alignment.matching import Matching
from alignment.permutation import Permutation, check_permutation, identity_permutation, random_permutation
from alignment.real import real_pair
from alignment.spec import PermutationSpec, State
from alignment.validate import check_pair


@torch.no_grad()
def match_weights(
    spec: PermutationSpec,
    reference: State,
    candidate: State,
    start: Permutation | None = None,
    generator: torch.Generator | None = None,
    restarts: int = 1,
    tolerance: float = 1e-7,
    max_sweeps: int = 100,
) -> Matching:
    """The permutation of ``candidate`` nearest to ``reference``, found by coordinate ascent over the groups.

    Each sweep visits the groups in a fresh random order and solves, for one group P with all others held,
    max_P Σ ⟨W_ref, P(W_cand)⟩, a linear assignment. It ends after a sweep in which no group gains more than
    ``tolerance`` of its own part. The first of ``restarts`` begins at ``start`` (default: where the candidate is
    recognised as nearly a permuted copy, that permutation, else one that is assigned outwards from inputs and outputs,
    see `outward_start`), the others at random permutations; the best is kept, on ties the first. Neither default
    depends on the order of the candidate's units: relabelled, it is matched to the same network, up to ties and
    rounding, where no tensor holds two families of one parent. Grouped convolutions with several channels in and out
    and grouped-query attention have such tensors; there families are found in turns, from the order that they have. An
    exact copy is found there too, and of others more ``restarts`` find better.

    Raises `StateError` for states that do not fit or are not finite, `SpecError` for a ``start`` that is no
    permutation of the spec, `ValueError` for ``restarts`` below 1.
    """
    if restarts < 1:
        raise ValueError(f"restarts must be 1 or more, got {restarts}")
    check_pair(spec, reference, candidate)
    identity = identity_permutation(spec)
    check_permutation(spec, start if start is not None else identity)
    pair = real_pair(spec, reference, candidate)
    if pair.is_identical:
        return Matching(identity, pair.baseline, 0.0, 0, True)
    generator = generator or torch.Generator().manual_seed(0)
    ascent = Ascent(pair, tolerance)
    first = ascent.first_position() if start is None else Position(spec, start)
    climbs = [ascent.climb(first, generator, max_sweeps)]
    for _ in range(restarts - 1):
        # Drawn only now, so that more restarts begin with the same climbs as fewer.
        again = Position(spec, random_permutation(spec, generator), is_near=False)
        climbs.append(ascent.climb(again, generator, max_sweeps))
    best = max(climbs, key=lambda climb: climb.objective)
    gain = best.objective - pair.baseline
    return Matching(best.permutation, best.objective, gain, best.sweeps, best.converged)

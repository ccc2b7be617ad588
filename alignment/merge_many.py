"""The aligned mean of several networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from alignment.interpolate import normalised, weighted_mean
from alignment.permutation import Permutation, compose, identity_permutation, invert, permute
from alignment.spec import PermutationSpec, State
from alignment.validate import check_finite
from alignment.weight_matching import match_weights

# Each round of MergeMany raises one bounded objective; this only guards against ties in rounding.
MAX_ROUNDS = 100


def merge_many(
    spec: PermutationSpec,
    states: Sequence[State],
    weights: Sequence[float] | None = None,
    method: str = "reference",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Σ w_k · π_k(state_k), with the π_k of `align_many`.

    Summed in fp64 and in the order of the list; the weights are divided by their sum. BatchNorm statistics of
    the result must be recomputed (`recalibrate`). Raises `StateError` for states that do not fit the spec,
    `ValueError` for an unknown method and for weights that are no weights.
    """
    permutations = align_many(spec, states, weights, method, generator)
    aligned = [permute(spec, by, state) for by, state in zip(permutations, states, strict=True)]
    return weighted_mean(aligned, normalised(weights, len(states)))


def align_many(
    spec: PermutationSpec,
    states: Sequence[State],
    weights: Sequence[float] | None = None,
    method: str = "reference",
    generator: torch.Generator | None = None,
) -> list[Permutation]:
    """One permutation for each of ``states``; that of the first is the identity. By ``method``:

    reference  Each is aligned to the first, alone: this is the method that can stream.
    many       MergeMany (arXiv 2209.04836, Algorithm 3): in random order each is aligned to the mean of the
               others, until none moves. Published for perceptrons; ResNets merged so were found to fall apart
               (arXiv 2405.17897).
    tree       The list is halved, each half merged by this same method, the right mean aligned to the left.
               Hierarchical pairwise merging; not a method of the paper.

    In "reference" and "tree" each alignment draws from a generator of its own: none depends on which is done
    first. Costs n - 1 matchings, in "many" n for each round. Raises `StateError` for a state that does not fit the
    spec or is not finite, and says which.
    """
    methods = {"reference": _to_reference, "many": _many, "tree": _tree}
    if method not in methods:
        near = get_close_matches(method, methods, n=1, cutoff=0.0)[0]
        raise ValueError(f"method {method!r} is unknown: did you mean {near!r}? There are {', '.join(methods)}")
    shares = normalised(weights, len(states))
    for position, state in enumerate(states):
        spec.check_state(state, f"state {position}")
        check_finite(state, f"state {position}")
    generator = generator or torch.Generator().manual_seed(0)
    return methods[method](_Task(spec, states, shares, generator))


@dataclass(frozen=True)
class _Task:
    spec: PermutationSpec
    states: Sequence[State]
    shares: Sequence[float]
    generator: torch.Generator

    def mean(self, permutations: Mapping[int, Permutation]) -> dict[str, Tensor]:
        """Of the members that ``permutations`` names, aligned, by their shares among themselves."""
        aligned = [permute(self.spec, by, self.states[k]) for k, by in permutations.items()]
        return weighted_mean(aligned, normalised([self.shares[k] for k in permutations], len(aligned)))

    def seeds(self) -> range:
        """One seed for each state, which does not depend on how many there are."""
        first = int(torch.randint(2**62, (), generator=self.generator))
        return range(first, first + len(self.states))


def _to_reference(task: _Task) -> list[Permutation]:
    seeds = task.seeds()
    found: list[Permutation] = [identity_permutation(task.spec)]
    for state, seed in zip(task.states[1:], seeds[1:], strict=True):
        found.append(_match(task, task.states[0], state, seed))
    return found


def _many(task: _Task) -> list[Permutation]:
    found: list[Permutation] = [identity_permutation(task.spec) for _ in task.states]
    for _ in range(MAX_ROUNDS):
        order = torch.randperm(len(found), generator=task.generator)
        moved = [_realign(task, found, int(member)) for member in order]
        if not any(moved):
            break
    home = invert(task.spec, found[0])
    return [compose(task.spec, home, permutation) for permutation in found]


def _realign(task: _Task, found: list[Permutation], member: int) -> bool:
    """Whether aligning ``member`` to the mean of the others changed its permutation in ``found``."""
    others = {k: permutation for k, permutation in enumerate(found) if k != member}
    if not others:
        return False
    before, candidate = found[member], task.states[member]
    matching = match_weights(task.spec, task.mean(others), candidate, start=before, generator=task.generator)
    found[member] = matching.permutation
    return any(not torch.equal(index, before[group]) for group, index in matching.permutation.items())


def _tree(task: _Task) -> list[Permutation]:
    found = _branch(task, task.seeds(), range(len(task.states)))
    return [found[k] for k in range(len(task.states))]


def _branch(task: _Task, seeds: Sequence[int], members: range) -> dict[int, Permutation]:
    if len(members) == 1:
        return {members[0]: identity_permutation(task.spec)}
    half = (len(members) + 1) // 2
    left, right = (_branch(task, seeds, part) for part in (members[:half], members[half:]))
    over = _match(task, task.mean(left), task.mean(right), seeds[members[half]])
    return left | {k: compose(task.spec, over, permutation) for k, permutation in right.items()}


def _match(task: _Task, reference: State, candidate: State, seed: int) -> Permutation:
    generator = torch.Generator().manual_seed(seed)
    return match_weights(task.spec, reference, candidate, generator=generator).permutation

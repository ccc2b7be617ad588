"""What matching is timed against: plain Algorithm 1, and PyPI's `rebasin`."""

import copy
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment.permutation import permute
from alignment.spec import State
from alignment.weight_matching import match_weights
from benchmarks.matching_work import Pair
from tests.oracle import algorithm_1


@dataclass(frozen=True)
class Outcome:
    """The candidate, aligned; and the sweeps and the permutation, where the peer tells them."""

    aligned: State
    sweeps: int | None = None
    permutation: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Run:
    """A matching in two steps, of which only `match` is timed."""

    match: Callable[[], Any]
    outcome: Callable[[Any], Outcome]


def ours(pair: Pair) -> Run:
    """`match_weights` with its defaults."""
    reference, candidate = pair.reference.state_dict(), pair.candidate.state_dict()
    return Run(
        lambda: match_weights(pair.spec, reference, candidate),
        lambda m: Outcome(permute(pair.spec, m.permutation, candidate), m.sweeps, m.permutation),
    )


def plain(pair: Pair) -> Run:
    """The plain Algorithm 1 of the tests, in fp32, in the visiting order of `ours`."""
    reference, candidate = pair.reference.state_dict(), pair.candidate.state_dict()
    return Run(
        lambda: algorithm_1(pair.spec, reference, candidate, torch.Generator().manual_seed(0), dtype=torch.float32),
        lambda found: Outcome(permute(pair.spec, found[0], candidate), found[1], found[0]),
    )


def rebasin(pair: Pair) -> Run:
    """`PermutationCoordinateDescent` of rebasin 0.0.47, its tracing of the network not counted."""
    torch.manual_seed(0)
    candidate = copy.deepcopy(pair.candidate)
    package: Any = importlib.import_module("rebasin")
    descent = package.PermutationCoordinateDescent(pair.reference, candidate, pair.inputs())

    def outcome(_: None) -> Outcome:
        descent.apply_permutations()
        return Outcome(candidate.state_dict())

    return Run(descent.calculate_permutations, outcome)


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None


PEERS: Mapping[str, Callable[[Pair], Run]] = {"ours": ours, "plain": plain, "rebasin": rebasin}

"""What `match_weights` ends at, against brute force over all permutations and against plain Algorithm 1."""

from collections.abc import Iterator
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment.permutation import identity_permutation, random_permutation
from alignment.spec import PermutationSpec
from alignment.weight_matching import match_weights
from tests.hand_specs import SPECS, mlp_spec, mlp_state, random_state
from tests.oracle import algorithm_1, objective

seeds = st.integers(0, 2**32)
QUADRATIC = "recurrent"


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 6))
def test_one_group_ends_at_the_best_of_all_permutations(seed: int, units: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, candidate = (mlp_state((3, units, 2), generator) for _ in range(2))
    spec = mlp_spec(reference)
    matching = match_weights(spec, reference, candidate)
    best = max(objective(spec, reference, candidate, {"P0": torch.tensor(p)}) for p in permutations(range(units)))
    assert matching.objective == pytest.approx(best)


@pytest.mark.parametrize("spec", [SPECS[name] for name in ("plain", "segmented", "attention")])
@settings(max_examples=2, deadline=None)
@given(seeds)
def test_no_group_and_its_families_can_be_moved_to_anything_better(spec: PermutationSpec, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, candidate = random_state(spec, generator), random_state(spec, generator)
    matching = match_weights(spec, reference, candidate, random_permutation(spec, generator), generator)
    assert matching.converged
    for root in (name for name in spec.groups if name not in spec.parents):
        for change in every_move(spec, root):
            moved = {**matching.permutation, **change}
            assert objective(spec, reference, candidate, moved) <= matching.objective + 1e-4


def every_move(spec: PermutationSpec, root: str) -> Iterator[dict[str, Tensor]]:
    """Every permutation of a group, with its families one at a time; the best of each family adds up."""
    families = [name for name, parent in spec.parents.items() if parent == root]
    for order in permutations(range(spec.groups[root])):
        yield {root: torch.tensor(order)}
        for family in families:
            rows = permutations(range(spec.groups[family]))
            for below in product(rows, repeat=spec.groups[root]):
                yield {root: torch.tensor(order), family: torch.tensor(below)}


@pytest.mark.parametrize("name", ["recurrent", "grouped"])
@settings(max_examples=15, deadline=None)
@given(seeds)
def test_groups_that_no_assignment_solves_still_end_above_their_start(name: str, seed: int) -> None:
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(seed)
    reference, candidate = random_state(spec, generator), random_state(spec, generator)
    start = random_permutation(spec, generator)
    matching = match_weights(spec, reference, candidate, start, generator)
    assert matching.converged
    assert matching.objective >= objective(spec, reference, candidate, start) - 1e-9
    assert matching.gain == pytest.approx(
        matching.objective - objective(spec, reference, candidate, identity_permutation(spec))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@settings(max_examples=25, deadline=None)
@given(seeds, st.lists(st.integers(3, 24), min_size=3, max_size=6))
def test_the_objective_is_that_of_plain_algorithm_1(dtype: torch.dtype, seed: int, widths: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, candidate = (
        {name: tensor.to(dtype) for name, tensor in mlp_state(tuple(widths), generator).items()} for _ in range(2)
    )
    spec = mlp_spec(reference)
    plain, sweeps = algorithm_1(spec, reference, candidate, torch.Generator().manual_seed(seed))
    identity = identity_permutation(spec)
    matching = match_weights(spec, reference, candidate, identity, torch.Generator().manual_seed(seed))
    assert matching.objective == pytest.approx(objective(spec, reference, candidate, plain), rel=1e-6)
    assert matching.sweeps == sweeps

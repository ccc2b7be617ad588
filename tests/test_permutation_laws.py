"""The laws of permutations and of matching, over one small spec for each kind of axis and over dtypes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment.permutation import compose, identity_permutation, invert, permute, random_permutation
from alignment.spec import PermutationSpec
from alignment.weight_matching import match_weights
from tests.hand_specs import SPECS, random_state

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

over_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
seeds = st.integers(0, 2**32)
few = settings(max_examples=8, deadline=None)

State = dict[str, Tensor]


def draw(spec: PermutationSpec, seed: int, dtype: torch.dtype) -> tuple[State, dict[str, Tensor], torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.to(dtype) for name, tensor in random_state(spec, generator).items()}
    return state, random_permutation(spec, generator), generator


def assert_same(left: State, right: State) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name


@over_specs
@over_dtypes
@few
@given(seeds)
def test_inverse_undoes_any_permutation(spec: PermutationSpec, dtype: torch.dtype, seed: int) -> None:
    state, p, _ = draw(spec, seed, dtype)
    assert_same(permute(spec, invert(spec, p), permute(spec, p, state)), state)
    assert_same(permute(spec, p, permute(spec, invert(spec, p), state)), state)


@over_specs
@few
@given(seeds)
def test_composition_acts_as_one_after_the_other(spec: PermutationSpec, seed: int) -> None:
    state, inner, generator = draw(spec, seed, torch.float32)
    outer = random_permutation(spec, generator)
    assert_same(permute(spec, compose(spec, outer, inner), state), permute(spec, outer, permute(spec, inner, state)))


@over_specs
@over_dtypes
@few
@given(seeds)
def test_permuting_keeps_keys_order_dtypes_and_values(spec: PermutationSpec, dtype: torch.dtype, seed: int) -> None:
    state, p, _ = draw(spec, seed, dtype)
    state["counter"] = torch.tensor(7)
    moved = permute(spec, p, state)
    assert list(moved) == list(state)
    for name, tensor in state.items():
        assert moved[name].dtype == tensor.dtype
        assert torch.equal(moved[name].flatten().sort().values, tensor.flatten().sort().values)


@over_specs
@few
@given(seeds)
def test_identity_moves_nothing(spec: PermutationSpec, seed: int) -> None:
    state, _, _ = draw(spec, seed, torch.float32)
    assert_same(permute(spec, identity_permutation(spec), state), state)


@over_specs
@over_dtypes
@few
@given(seeds)
def test_identity_is_the_matching_of_a_state_with_itself(spec: PermutationSpec, dtype: torch.dtype, seed: int) -> None:
    state, start, _ = draw(spec, seed, dtype)
    for begin in (None, start):
        matching = match_weights(spec, state, state, start=begin)
        assert_same(dict(matching.permutation), identity_permutation(spec))
        assert matching.gain == 0
        assert matching.converged
        assert not any(matching.moved.values())


@over_specs
@over_dtypes
@few
@given(seeds)
def test_matching_a_permuted_copy_recovers_it_exactly(spec: PermutationSpec, dtype: torch.dtype, seed: int) -> None:
    state, p, _ = draw(spec, seed, dtype)
    copy = permute(spec, p, state)
    matching = match_weights(spec, state, copy)
    assert_same(permute(spec, matching.permutation, copy), state)
    norm = sum(t.double().square().sum().item() for n, t in state.items() if n not in spec.buffers)
    assert matching.objective == pytest.approx(norm)


@over_specs
@few
@given(seeds)
def test_relabelling_the_candidate_does_not_change_the_aligned_candidate(spec: PermutationSpec, seed: int) -> None:
    reference, q, generator = draw(spec, seed, torch.float64)
    candidate = {name: tensor.double() for name, tensor in random_state(spec, generator).items()}
    relabelled = permute(spec, q, candidate)
    start = random_permutation(spec, generator)
    one = match_weights(spec, reference, candidate, start, torch.Generator().manual_seed(1))
    relabelled_start = compose(spec, start, invert(spec, q))
    other = match_weights(spec, reference, relabelled, relabelled_start, torch.Generator().manual_seed(1))
    assert other.objective == pytest.approx(one.objective)
    assert_same(permute(spec, other.permutation, relabelled), permute(spec, one.permutation, candidate))


@over_specs
@over_dtypes
@few
@given(seeds)
def test_the_objective_never_falls_in_a_sweep(spec: PermutationSpec, dtype: torch.dtype, seed: int) -> None:
    reference, start, generator = draw(spec, seed, dtype)
    candidate = {name: tensor.to(dtype) for name, tensor in random_state(spec, generator).items()}
    matching = match_weights(spec, reference, candidate, start, generator, max_sweeps=0)
    for _ in range(100):
        if matching.converged:
            return
        before, here = matching.objective, matching.permutation
        assert before == pytest.approx(total(spec, reference, permute(spec, here, candidate)))
        matching = match_weights(spec, reference, candidate, here, generator, max_sweeps=1)
        assert matching.objective >= before
    pytest.fail("a hundred sweeps, and it still moves")


def total(spec: PermutationSpec, left: State, right: State) -> float:
    return sum((left[n].double() * right[n].double()).sum().item() for n in left if n not in spec.buffers)

"""The laws of permutations and of matching over every shipped network, every norm and every dtype."""

from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment import (
    PermutationSpec,
    check_spec,
    compose,
    derive_spec,
    identity_permutation,
    invert,
    match_weights,
    permute,
    random_permutation,
)
from alignment.interpolate import interpolate
from models import FAMILIES, build
from tests.test_shipped_networks import CASES, architecture, example

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
State = dict[str, Tensor]

over_networks = pytest.mark.parametrize(("name", "norm"), CASES)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
seeds = st.integers(0, 2**32)
dtypes = st.sampled_from(DTYPES)
few = settings(max_examples=2, deadline=None)


@cache
def network(name: str, norm: str) -> tuple[PermutationSpec, State]:
    model = build(architecture(name, norm), seed=1)
    return derive_spec(model, (example(name),)), model.state_dict()


def drawn(name: str, norm: str, dtype: torch.dtype, seed: int) -> tuple[PermutationSpec, State, State, torch.Generator]:
    """A spec, a network, another network of the same kind, and a source of permutations."""
    generator = torch.Generator().manual_seed(seed)
    spec, state = network(name, norm)
    ours = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    noise = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in ours.items()}
    theirs = {key: noise[key].to(dtype) if t.is_floating_point() else t for key, t in ours.items()}
    return spec, ours, theirs, generator


def same(left: State, right: State) -> bool:
    return list(left) == list(right) and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left
    )


@over_networks
@over_dtypes
@few
@given(seeds)
def test_permutations_form_a_group(name: str, norm: str, dtype: torch.dtype, seed: int) -> None:
    spec, state, _, generator = drawn(name, norm, dtype, seed)
    p, q = random_permutation(spec, generator), random_permutation(spec, generator)
    assert same(permute(spec, identity_permutation(spec), state), state)
    assert same(permute(spec, invert(spec, p), permute(spec, p, state)), state)
    assert same(permute(spec, compose(spec, p, q), state), permute(spec, p, permute(spec, q, state)))


@over_networks
@few
@given(dtypes, seeds)
def test_outputs_are_preserved(name: str, norm: str, dtype: torch.dtype, seed: int) -> None:
    spec, _ = network(name, norm)
    model = build(architecture(name, norm), seed % 100).to(dtype)
    # Raises where outputs differ by more than rounding: 1e-9 of their scale in fp64, 1e-4 otherwise.
    check_spec(model, spec, (example(name),), generator=torch.Generator().manual_seed(seed), trials=1)


@over_networks
@over_dtypes
@few
@given(seeds)
def test_a_permuted_copy_is_brought_back(name: str, norm: str, dtype: torch.dtype, seed: int) -> None:
    spec, state, _, generator = drawn(name, norm, dtype, seed)
    moved = permute(spec, random_permutation(spec, generator), state)
    matching = match_weights(spec, state, moved, generator=generator)
    assert same(permute(spec, matching.permutation, moved), state)


@over_networks
@over_dtypes
def test_the_identity_is_the_matching_of_a_network_with_itself(name: str, norm: str, dtype: torch.dtype) -> None:
    spec, state, _, _ = drawn(name, norm, dtype, 0)
    matching = match_weights(spec, state, state)
    assert not any(matching.moved.values())
    assert matching.gain == 0


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] != "resnet50"])
@few
@given(dtypes, seeds)
def test_the_objective_never_falls_from_sweep_to_sweep(name: str, norm: str, dtype: torch.dtype, seed: int) -> None:
    spec, ours, theirs, generator = drawn(name, norm, dtype, seed)
    start = random_permutation(spec, generator)
    climbs = [
        match_weights(spec, ours, theirs, start, torch.Generator().manual_seed(3), max_sweeps=n).objective
        for n in range(4)
    ]
    assert climbs == sorted(climbs)
    # In the smallest networks a start can be the best there is. Were it always so, nothing would be left, which fails.
    assume(climbs[-1] > climbs[0])


@over_networks
def test_relabelling_the_candidate_does_not_change_what_a_known_merge_is(name: str, norm: str) -> None:
    spec, state, other, generator = drawn(name, norm, torch.float32, 7)
    # A candidate near enough to the reference that the best matching is beyond doubt.
    near = interpolate(state, {key: t * 0.02 if t.is_floating_point() else t for key, t in other.items()}, 0.1)
    relabelled = permute(spec, random_permutation(spec, generator), near)
    matchings = [match_weights(spec, state, candidate) for candidate in (near, relabelled)]
    merged = [
        interpolate(state, permute(spec, matching.permutation, candidate), 0.5)
        for matching, candidate in zip(matchings, (near, relabelled), strict=True)
    ]
    assert same(*merged)


@over_networks
@few
@given(dtypes, seeds)
def test_relabelling_the_candidate_does_not_change_the_merge_of_networks_that_have_nothing_in_common(
    name: str, norm: str, dtype: torch.dtype, seed: int
) -> None:
    spec, ours, theirs, generator = drawn(name, norm, dtype, seed)
    relabelled = permute(spec, random_permutation(spec, generator), theirs)
    found = [match_weights(spec, ours, candidate) for candidate in (theirs, relabelled)]
    merged = [
        interpolate(ours, permute(spec, matching.permutation, candidate), 0.5)
        for matching, candidate in zip(found, (theirs, relabelled), strict=True)
    ]
    assert found[0].gain > 0
    assert same(*merged)


@over_networks
def test_the_spec_names_each_tensor_once_and_gives_it_its_whole_shape(name: str, norm: str) -> None:
    spec, state = network(name, norm)
    assert list(spec.axes) == [key for key, tensor in state.items() if tensor.ndim]
    assert all(spec.shape(key) == tuple(state[key].shape) for key in spec.axes)
    assert set(FAMILIES) == {case for case, _ in CASES}

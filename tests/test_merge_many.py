"""Several networks merged: to a reference, by MergeMany, and in a tree."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from alignment.errors import StateError
from alignment.interpolate import interpolate, weighted_mean
from alignment.merge import merge
from alignment.merge_many import align_many, merge_many
from alignment.permutation import compose, identity_permutation, permute, random_permutation
from alignment.spec import PermutationSpec
from alignment.weight_matching import match_weights
from tests.hand_specs import mlp_spec

METHODS = ["reference", "many", "tree"]


def state(seed: int, units: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [7, units, units, 3]
    layers = {
        f"{k}.weight": torch.randn(after, before, generator=generator, dtype=torch.float64)
        for k, (before, after) in enumerate(pairwise(sizes))
    }
    return layers | {f"{k}.bias": torch.randn(n, generator=generator).double() for k, n in enumerate(sizes[1:])}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relabelled(spec: PermutationSpec, of: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    return [of] + [permute(spec, random_permutation(spec, seeded(k)), of) for k in range(1, n)]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-12) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=atol, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_relabelled_copies_of_one_network_merge_into_it(method: str, n: int):
    first = state(0)
    spec = mlp_spec(first)
    merged = merge_many(spec, relabelled(spec, first, n), method=method)
    assert_same(merged, first)


@pytest.mark.parametrize("method", METHODS)
def test_the_merge_is_the_weighted_mean_of_the_aligned_networks(method: str):
    states, weights = [state(k) for k in range(4)], [1.0, 2.0, 3.0, 2.0]
    spec = mlp_spec(states[0])
    permutations = align_many(spec, states, weights, method, seeded(0))
    aligned = [permute(spec, by, one) for by, one in zip(permutations, states, strict=True)]
    merged = merge_many(spec, states, weights, method, seeded(0))
    assert_same(merged, weighted_mean(aligned, [0.125, 0.25, 0.375, 0.25]))


@pytest.mark.parametrize("method", METHODS)
def test_the_first_network_keeps_its_labels(method: str):
    states = [state(k) for k in range(3)]
    spec = mlp_spec(states[0])
    first = align_many(spec, states, method=method)[0]
    assert all(torch.equal(index, first[name]) for name, index in identity_permutation(spec).items())


@pytest.mark.parametrize("method", METHODS)
def test_two_networks_merge_as_in_merge(method: str):
    a = state(0)
    spec = mlp_spec(a)
    noise = state(1)
    b = permute(spec, random_permutation(spec, seeded(5)), interpolate(a, noise, 0.05))
    assert_same(merge_many(spec, [a, b], [3.0, 1.0], method), merge(spec, a, b, 0.25))


@pytest.mark.parametrize("method", METHODS)
def test_one_seed_gives_one_answer(method: str):
    states = [state(k) for k in range(4)]
    spec = mlp_spec(states[0])
    first, again = (merge_many(spec, states, method=method, generator=seeded(3)) for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_brings_networks_closer_than_no_alignment(method: str):
    states = [state(k) for k in range(5)]
    spec = mlp_spec(states[0])
    permutations = align_many(spec, states, method=method)
    aligned = [permute(spec, by, one) for by, one in zip(permutations, states, strict=True)]
    assert _similarity(aligned) > _similarity(states) + 1


def test_merge_many_ends_where_no_network_can_move_closer_to_the_mean_of_the_others():
    states = [state(k) for k in range(4)]
    spec = mlp_spec(states[0])
    permutations = align_many(spec, states, method="many")
    aligned = [permute(spec, by, one) for by, one in zip(permutations, states, strict=True)]
    for member, one in enumerate(aligned):
        others = [other for k, other in enumerate(aligned) if k != member]
        mean, here = weighted_mean(others, [1 / 3] * 3), identity_permutation(spec)
        home = match_weights(spec, mean, one, here).permutation
        assert all(torch.equal(index, home[name]) for name, index in here.items())


def test_by_reference_each_network_is_aligned_alone():
    states = [state(k, units=40) for k in range(5)]
    spec = mlp_spec(states[0])
    for seed in range(3):
        alone = align_many(spec, states[:2], generator=seeded(seed))[1]
        among = align_many(spec, states, generator=seeded(seed))[1]
        assert all(torch.equal(index, among[name]) for name, index in alone.items())


def test_the_tree_aligns_each_branch_to_its_left_neighbour():
    a, b = state(0), state(1)
    spec = mlp_spec(a)
    shuffle = [random_permutation(spec, seeded(k)) for k in range(3)]
    states = [a, permute(spec, shuffle[0], a), permute(spec, shuffle[1], b), permute(spec, shuffle[2], b)]
    found = align_many(spec, states, method="tree")
    for pair, of in ((found[:2], (identity_permutation(spec), shuffle[0])), (found[2:], shuffle[1:])):
        left, right = (compose(spec, by, moved) for by, moved in zip(pair, of, strict=True))
        assert all(torch.equal(index, right[name]) for name, index in left.items())


def test_what_cannot_be_merged_is_refused_with_a_reason():
    states = [state(0), state(1)]
    spec = mlp_spec(states[0])
    with pytest.raises(ValueError, match="method 'trees' is unknown: did you mean 'tree'"):
        merge_many(spec, states, method="trees")
    with pytest.raises(ValueError, match="one weight for each"):
        merge_many(spec, states, weights=[1.0])


@pytest.mark.parametrize("method", METHODS)
def test_the_network_that_cannot_be_merged_is_named(method: str):
    spec = mlp_spec(state(0))
    with pytest.raises(StateError, match=r"^state 2: tensor '0\.weight' has shape"):
        merge_many(spec, [state(0), state(1), state(2, units=11)], method=method)
    with pytest.raises(StateError, match=r"^state 1: tensor '0\.bias' has a value that is not finite"):
        merge_many(spec, [state(0), state(1) | {"0.bias": state(1)["0.bias"] * torch.nan}, state(2)], method=method)


def _similarity(states: list[dict[str, Tensor]]) -> float:
    mean = weighted_mean(states, [1 / len(states)] * len(states))
    return sum(tensor.square().sum().item() for tensor in mean.values())

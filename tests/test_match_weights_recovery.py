"""Known permutations are found again: exact copies, noisy ones, with and without help from the copy's start."""

import pytest
import torch
from torch import Tensor

from alignment.permutation import invert, permute, random_permutation
from alignment.spec import PermutationSpec
from alignment.weight_matching import match_weights
from models.architecture import Architecture
from models.build import build
from tests.hand_specs import mlp_spec, mlp_state, resnet_spec

SEEDS = range(20)

State = dict[str, Tensor]


def noisy(state: State, share: float, generator: torch.Generator) -> State:
    return {
        name: tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and tensor.ndim > 1
        else tensor
        for name, tensor in state.items()
    }


def assert_recovered(spec: PermutationSpec, planted: State, found: State) -> None:
    for name, index in invert(spec, planted).items():
        assert torch.equal(found[name], index), name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_permuted_mlp_is_recovered_within_four_sweeps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = mlp_state((20, 48, 48, 48, 10), generator)
    spec = mlp_spec(reference)
    planted = random_permutation(spec, generator)
    candidate = permute(spec, planted, noisy(reference, 0.1, generator))
    matching = match_weights(spec, reference, candidate, generator=generator)
    assert matching.sweeps <= 4
    assert_recovered(spec, planted, dict(matching.permutation))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_permuted_resnet20_is_recovered_at_the_first_start(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = build(Architecture("resnet20", (3, 32, 32), 10, 8), seed).state_dict()
    spec = resnet_spec(reference)
    planted = random_permutation(spec, generator)
    candidate = permute(spec, planted, noisy(reference, 0.1, generator))
    assert_recovered(spec, planted, dict(match_weights(spec, reference, candidate).permutation))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_permuted_resnet20_is_recovered_within_ten_restarts_from_a_random_start(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = build(Architecture("resnet20", (3, 32, 32), 10, 4), seed).state_dict()
    spec = resnet_spec(reference)
    planted = random_permutation(spec, generator)
    candidate = permute(spec, planted, reference)
    wanted = invert(spec, planted)
    for _ in range(10):
        start = random_permutation(spec, generator)
        found = match_weights(spec, reference, candidate, start, generator).permutation
        if all(torch.equal(found[name], wanted[name]) for name in wanted):
            return
    pytest.fail("not recovered in ten restarts")

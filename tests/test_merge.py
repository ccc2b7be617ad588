"""Two networks merged in one call."""

from copy import deepcopy

import torch
from torch.nn.functional import cross_entropy

from alignment.barrier import loss_sums
from alignment.batch_norm import recalibrate
from alignment.interpolate import interpolate
from alignment.merge import merge
from alignment.permutation import permute, random_permutation
from alignment.tracing import derive_spec
from tests.hand_specs import resnet_spec
from tests.trained import digits, digits_network, perceptron_spec, trained


def test_a_network_merged_with_its_relabelled_self_is_itself():
    state = trained("resnet20", "batch", 16, 0, depth=8).state_dict()
    spec = resnet_spec(state)
    relabelled = permute(spec, random_permutation(spec, torch.Generator().manual_seed(1)), state)
    merged = merge(spec, state, relabelled, weight=0.3)
    for name, tensor in state.items():
        torch.testing.assert_close(merged[name], tensor)


def test_weight_zero_is_the_reference_and_the_generator_decides_the_rest():
    a, b = (trained("resnet20", "batch", 8, seed, depth=8).state_dict() for seed in (0, 1))
    spec = resnet_spec(a)
    assert all(torch.equal(tensor, a[name]) for name, tensor in merge(spec, a, b, weight=0.0).items())
    first, again = (merge(spec, a, b, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_an_aligned_and_recalibrated_merge_loses_less_than_a_naive_one():
    first, second = (trained("mlp", "batch", 32, seed, depth=3) for seed in (0, 1))
    a, b = first.state_dict(), second.state_dict()
    train, held = digits()
    losses: list[float] = []
    for state in (interpolate(a, b, 0.5), merge(perceptron_spec(first), a, b)):
        network = digits_network("mlp", "batch", 32, 0, depth=3)
        network.load_state_dict(state)
        recalibrate(network, train)
        losses.append(loss_sums(network, network.state_dict(), held, cross_entropy).loss)
    assert losses[1] < 0.5 * losses[0]


def test_the_middle_of_two_trained_networks_is_better_recalibrated():
    train, held = digits()
    first, second = (trained("resnet20", "batch", 8, seed, depth=8) for seed in (0, 1))
    spec = derive_spec(first, (train[0][0][:2],))
    stale = deepcopy(first)
    stale.load_state_dict(merge(spec, first.state_dict(), second.state_dict()))
    fresh = deepcopy(stale)
    recalibrate(fresh, train)
    before, after = (loss_sums(net, net.state_dict(), held, cross_entropy) for net in (stale, fresh))
    assert after.loss < 0.8 * before.loss
    assert after.correct > before.correct

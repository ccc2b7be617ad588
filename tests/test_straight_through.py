"""Matching by descent on the loss of the midpoint."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from alignment.barrier import loss_sums
from alignment.errors import SpecError, StateError
from alignment.interpolate import interpolate
from alignment.permutation import Permutation, identity_permutation, invert, permute, random_permutation
from alignment.spec import PermutationSpec, State
from alignment.straight_through import match_straight_through
from alignment.tracing import derive_spec
from alignment.weight_matching import match_weights
from tests.trained import digits, perceptron_spec, trained

TRAIN = digits()[0]


def pair(norm: str, seed: int = 0) -> tuple[nn.Module, PermutationSpec, State, State]:
    first, second = (trained("mlp", norm, 32, each, depth=3) for each in (seed, seed + 1))
    return first, perceptron_spec(first), first.state_dict(), second.state_dict()


def middle_loss(model: nn.Module, spec: PermutationSpec, a: State, b: State, by: Permutation) -> float:
    middle = interpolate(a, permute(spec, by, b), 0.5)
    return loss_sums(model, middle, TRAIN, cross_entropy, recalibrate_with=TRAIN).loss


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_midpoint_loses_less_than_by_weight_matching(norm: str):
    # Of one pair, a processor that rounds otherwise trains another, for which so few steps may find nothing.
    shares: list[float] = []
    for seed in (0, 2, 4):
        model, spec, a, b = pair(norm, seed)
        found = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=48)
        by_weights = middle_loss(model, spec, a, b, match_weights(spec, a, b).permutation)
        shares.append(middle_loss(model, spec, a, b, found.permutation) / by_weights)
    assert max(shares) <= 1
    assert sum(shares) / len(shares) < 0.97


def test_without_steps_it_is_weight_matching():
    model, spec, a, b = pair("none")
    found, by_weights = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, 0), match_weights(spec, a, b)
    assert all(torch.equal(index, found.permutation[name]) for name, index in by_weights.permutation.items())
    assert (found.objective, found.gain) == pytest.approx((by_weights.objective, by_weights.gain))


def test_a_known_permutation_is_kept_once_found():
    model, spec, a, _ = pair("none")
    shuffle = random_permutation(spec, torch.Generator().manual_seed(0))
    found = match_straight_through(spec, model, a, permute(spec, shuffle, a), TRAIN, cross_entropy, steps=12)
    home = invert(spec, shuffle)
    assert all(torch.equal(index, found.permutation[name]) for name, index in home.items())


def test_it_never_ends_worse_than_where_it_began():
    model, spec, a, b = pair("none")
    start = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=24).permutation
    found = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=1, start=start)
    assert middle_loss(model, spec, a, b, found.permutation) <= middle_loss(model, spec, a, b, start)


def test_one_start_gives_one_answer_and_iterators_are_read_whole():
    model, spec, a, b = pair("batch")
    first, again = (
        match_straight_through(spec, model, a, b, given, cross_entropy, 13) for given in (TRAIN, iter(TRAIN))
    )
    assert all(torch.equal(index, again.permutation[name]) for name, index in first.permutation.items())


def test_a_lone_sample_joins_its_neighbour_where_batch_norm_wants_a_variance():
    model, spec, a, b = pair("batch")
    ((inputs, targets), *_) = TRAIN
    batches = [(inputs[part], targets[part]) for part in (slice(0, 16), slice(16, 32), slice(32, 33))]
    whole = [batches[0], (inputs[16:33], targets[16:33])]
    found, expected = (
        match_straight_through(spec, model, a, b, given, cross_entropy, steps=4) for given in (batches, whole)
    )
    assert all(torch.equal(index, expected.permutation[name]) for name, index in found.permutation.items())


def test_stale_batch_norm_statistics_do_not_matter():
    model, spec, a, b = pair("batch")
    found = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=24).permutation
    a, b = ({name: t + 1e3 if "running_mean" in name else t for name, t in state.items()} for state in (a, b))
    again = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=24).permutation
    assert all(torch.equal(index, again[name]) for name, index in found.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_descends_in_single_precision_whatever_the_network_is_in(dtype: torch.dtype):
    model, spec, first, second = pair("batch")
    a, b = ({n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()} for state in (first, second))
    halves = [(inputs.to(dtype), targets) for inputs, targets in TRAIN]
    single = [(inputs.float(), targets) for inputs, targets in halves]
    c, d = ({name: t.float() if t.is_floating_point() else t for name, t in state.items()} for state in (a, b))
    expected = match_straight_through(spec, model, c, d, single, cross_entropy, steps=13)
    for network, batches in ((model, single), (deepcopy(model).to(dtype), halves)):
        found = match_straight_through(spec, network, a, b, batches, cross_entropy, steps=13)
        assert all(torch.equal(index, expected.permutation[name]) for name, index in found.permutation.items())
        assert {t.dtype for t in permute(spec, found.permutation, b).values()} == {t.dtype for t in b.values()}


def test_it_descends_where_the_caller_has_switched_gradients_off():
    model, spec, a, b = pair("batch")
    found = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=2)
    with torch.no_grad():
        again = match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=2)
    assert again.objective == found.objective


def test_the_network_and_the_states_come_out_as_they_were():
    model, spec, a, b = pair("batch")
    kept = [{name: tensor.clone() for name, tensor in state.items()} for state in (a, b, model.state_dict())]
    match_straight_through(spec, model, a, b, TRAIN, cross_entropy, steps=2)
    for before, after in zip(kept, (a, b, model.state_dict()), strict=True):
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in model.parameters())


def test_what_cannot_be_matched_is_refused():
    model, spec, a, b = pair("none")
    with pytest.raises(ValueError, match="no batches"):
        match_straight_through(spec, model, a, b, [], cross_entropy)
    with pytest.raises(StateError, match=r"candidate: tensor 'fc\.bias' is missing"):
        match_straight_through(spec, model, a, {n: t for n, t in b.items() if n != "fc.bias"}, TRAIN, cross_entropy)
    start = {name: index[:-1] for name, index in identity_permutation(spec).items()}
    with pytest.raises(SpecError, match="group"):
        match_straight_through(spec, model, a, b, TRAIN, cross_entropy, start=start)


class WithTable(nn.Module):
    """Has a parameter of integers, as quantised networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        self.table = nn.Parameter(torch.arange(5), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x[:, self.table])


def test_a_parameter_of_integers_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model, other, x = WithTable(), WithTable(), torch.randn(16, 5)
    spec = derive_spec(model, (x,))
    data = [(x, torch.arange(16) % 2)]
    found = match_straight_through(spec, model, model.state_dict(), other.state_dict(), data, cross_entropy, steps=3)
    assert found.permutation["layers.0"].sort().values.equal(torch.arange(8))

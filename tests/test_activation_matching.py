"""Matching by what units do: known permutations come back, and merges of trained networks gain."""

import copy
from typing import cast

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment.activation_matching import match_activations
from alignment.barrier import loss_sums
from alignment.batch_norm import recalibrate
from alignment.correlation import Correlation
from alignment.errors import AlignmentError, StateError
from alignment.interpolate import interpolate
from alignment.permutation import Permutation, identity_permutation, invert, permute, random_permutation
from alignment.spec import PermutationSpec, State
from alignment.taps import ENTERS, LEAVES, find_taps
from alignment.tracing import derive_spec
from alignment.weight_matching import match_weights
from tests.hand_specs import resnet_spec
from tests.trained import digits, digits_network, perceptron_spec, trained

X = digits()[0][0][0]


def same(one: Permutation, other: Permutation) -> bool:
    return one.keys() == other.keys() and all(torch.equal(index, other[name]) for name, index in one.items())


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("mlp", "none"),
        ("mlp", "layer"),
        ("vgg11", "batch"),
        ("resnet20", "batch"),
        ("resnet20", "layer"),
        ("transformer", "layer"),
        ("gru", "none"),
    ],
)
def test_a_known_permutation_is_recovered_exactly(name: str, norm: str, weight: float):
    depth = {"mlp": 2, "resnet20": 8, "transformer": 1}.get(name, 0)
    model = digits_network(name, norm, 8, 0, depth)
    spec, state = derive_spec(model.eval(), (X[:4],)), model.state_dict()
    shuffle = random_permutation(spec, torch.Generator().manual_seed(1))
    noisy = {n: t + 0.01 * t.std() * torch.randn_like(t) if t.ndim > 1 else t for n, t in state.items()}
    found = match_activations(spec, model, state, permute(spec, shuffle, noisy), [X], weight)
    assert spec.groups
    assert same(found.permutation, invert(spec, shuffle))


def merged_loss(model: nn.Module, spec: PermutationSpec, states: tuple[State, State], by: Permutation) -> float:
    network = copy.deepcopy(model)
    network.load_state_dict(interpolate(states[0], permute(spec, by, states[1]), 0.5))
    recalibrate(network, digits()[0])
    sums = loss_sums(network, network.state_dict(), digits()[1], cross_entropy)
    return sums.loss / sums.count


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_merge_of_two_trained_networks_loses_less_than_by_weights_and_than_naively(weight: float):
    first, second = (trained("resnet20", "batch", 8, seed, depth=8) for seed in (0, 1))
    states = first.state_dict(), second.state_dict()
    spec = resnet_spec(states[0])
    by_activations = match_activations(spec, first, *states, digits()[0], weight)
    losses = [
        merged_loss(first, spec, states, by)
        for by in (
            by_activations.permutation,
            match_weights(spec, *states).permutation,
            identity_permutation(spec),
        )
    ]
    assert 1.25 * losses[0] < min(losses[1:])


def test_each_unit_gets_the_partner_of_greatest_total_correlation():
    first, second = (trained("mlp", "none", 8, seed, depth=1) for seed in (0, 1))
    spec = perceptron_spec(first)
    found = match_activations(spec, first, first.state_dict(), second.state_dict(), digits()[0])
    x = torch.cat([x for x, _ in digits()[0]])
    hidden = [network.get_submodule("layers")(x.flatten(1)).double() for network in (first, second)]
    both = torch.corrcoef(torch.cat(hidden, 1).T).nan_to_num()[:8, 8:]
    best = linear_sum_assignment(both.numpy(), maximize=True)[1]
    assert found.permutation["layers.0"].tolist() == best.tolist()


def test_batches_of_any_size_and_kind_give_one_answer():
    first, second = (trained("mlp", "batch", 16, seed, depth=2) for seed in (0, 1))
    spec, states = perceptron_spec(first), (first.state_dict(), second.state_dict())
    pairs = digits()[0][:3]
    x = torch.cat([x for x, _ in pairs])
    whole = match_activations(spec, first, *states, [x]).permutation
    for batches in (pairs, iter(pairs), torch.split(x, [1, 200, len(x) - 201])):
        assert same(match_activations(spec, first, *states, batches).permutation, whole)


def test_objective_and_gain_are_those_of_the_weights():
    first, second = (trained("mlp", "none", 16, seed, depth=2) for seed in (0, 1))
    a, b, spec = first.state_dict(), second.state_dict(), perceptron_spec(first)
    found = match_activations(spec, first, a, b, digits()[0])

    def product(other: State) -> float:
        return sum((tensor.double() * other[name]).sum().item() for name, tensor in a.items())

    assert found.objective == pytest.approx(product(permute(spec, found.permutation, b)))
    assert found.gain == pytest.approx(found.objective - product(b))


class Apart(nn.Module):
    """A group that no module lets out: its two matrices are used within one call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Linear(64, 6)
        self.inner = nn.Parameter(torch.randn(7, 6))
        self.outer = nn.Parameter(torch.randn(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        return (self.seen(x.flatten(1)).relu() @ self.inner.T).relu() @ self.outer.T


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_is_read_nowhere_is_matched_by_its_weights(weight: float):
    torch.manual_seed(0)
    model = Apart()
    spec, state = derive_spec(model, (X[:4],)), model.state_dict()
    shuffle = random_permutation(spec, torch.Generator().manual_seed(2))
    assert {tap.axis[0][0].size for tap in find_taps(spec, model, state, X[:2])} == {6}
    found = match_activations(spec, model, state, permute(spec, shuffle, state), [X], weight)
    assert same(found.permutation, invert(spec, shuffle))


class Stacked(nn.Module):
    """Experts of one hidden layer each, all in one tensor per layer: the gate tells them apart, nothing their units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(64, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.into, self.out = nn.Parameter(torch.randn(3, 6, 7)), nn.Parameter(torch.randn(3, 7, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        hidden = torch.einsum("bd,edh->beh", x, self.into).relu()
        return self.head(torch.einsum("beh,ehd,be->bd", hidden, self.out, self.gate(x).softmax(1)))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_families_that_lie_on_no_axis_with_their_parent_are_matched_by_their_weights(weight: float):
    torch.manual_seed(0)
    model = Stacked()
    spec, state = derive_spec(model, (X[:4],)), model.state_dict()
    shuffle = random_permutation(spec, torch.Generator().manual_seed(2))
    noisy = {n: t + 0.05 * t.std() * torch.randn_like(t) for n, t in state.items()}
    found = match_activations(spec, model, state, permute(spec, shuffle, noisy), [X], weight)
    assert list(spec.parents.values()) == ["into"]
    assert same(found.permutation, invert(spec, shuffle))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_dead_units_whose_weights_have_decayed_almost_to_nothing_are_matched_as_the_others(weight: float):
    torch.manual_seed(0)
    into, out = nn.Linear(64, 8), nn.Linear(8, 3)
    model = nn.Sequential(nn.Flatten(), into, nn.ReLU(), out)
    with torch.no_grad():
        for weights in (into.weight[2], into.bias[2], out.weight[:, 2]):
            weights.mul_(1e-39)
    spec, state = derive_spec(model, (X[:4],)), model.state_dict()
    shuffle = random_permutation(spec, torch.Generator().manual_seed(2))
    found = match_activations(spec, model, state, permute(spec, shuffle, state), [X], weight)
    assert same(found.permutation, invert(spec, shuffle))


def test_units_are_read_after_their_non_linearity_and_streams_at_every_block():
    model = digits_network("resnet20", "batch", 8, 0, depth=20)
    spec = resnet_spec(model.state_dict())
    taps = find_taps(spec, model, model.state_dict(), X[:2])
    assert {tap.place.side for tap in taps} == {ENTERS}
    assert [tap.place.module for tap in taps if tap.axis[0][0].group == "layer2.0.inner1"] == ["layer2.0.conv2"]
    assert [tap.place.module for tap in taps if tap.axis[0][0].group == "layer2.0.stream"] == [
        "layer2.1.conv1",
        "layer2.2.conv1",
        "layer3.0.conv1",
    ]


def test_values_that_do_not_tell_which_group_they_hold_are_not_read():
    model = digits_network("mlp", "none", 8, 0, depth=2)
    state = model.state_dict()
    state["layers.1.0.bias"].fill_(-100)  # silent, so that any arrangement of eight units fits
    taps = find_taps(perceptron_spec(model), model, state, X[:2])
    assert [(tap.place.module, tap.place.side) for tap in taps] == [("layers.1.0", ENTERS), ("layers.1.0", LEAVES)]


def test_the_keys_of_attention_are_read_where_they_leave():
    model = digits_network("transformer", "layer", 8, 0, depth=1).eval()
    taps = find_taps(derive_spec(model, (X[:4],)), model, model.state_dict(), X[:2])
    leaving = {tap.place.module for tap in taps if tap.place.side != ENTERS}
    assert leaving == {"blocks.0.attention.query", "blocks.0.attention.key"}


def test_correlation_streams_to_that_of_all_samples():
    generator = torch.Generator().manual_seed(0)
    a, b = 1000 + torch.randn(2, 5, 300, generator=generator)
    b = b + 0.5 * a.flip(0)
    streamed = Correlation(a[:, :10], b[:, :10])
    streamed.add(a[:, 10:], b[:, 10:])
    expected = torch.corrcoef(torch.cat((a, b)).double())[:5, 5:]
    torch.testing.assert_close(streamed.matrix(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_correlation_does_not_depend_on_the_scale_of_a_unit(scale: float):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 100, generator=generator)
    b = b + a
    scales = torch.tensor([[1.0], [scale], [1.0]])
    scaled = Correlation(a[:, :40] * scales, b[:, :40] * scales)
    scaled.add(a[:, 40:] * scales, b[:, 40:] * scales)
    torch.testing.assert_close(scaled.matrix(), Correlation(a, b).matrix(), atol=1e-6, rtol=0)


def test_a_unit_that_never_varies_correlates_with_none():
    a = torch.randn(3, 50)
    a[1] = 7.3
    matrix = Correlation(a, a).matrix()
    assert matrix[1].tolist() == matrix[:, 1].tolist() == [0, 0, 0]
    assert matrix[0, 0].item() == pytest.approx(1)


def test_the_network_and_the_states_come_out_as_they_were():
    model = digits_network("resnet20", "batch", 8, 0, depth=8).train()
    spec, state = resnet_spec(model.state_dict()), model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    match_activations(spec, model, state, trained("resnet20", "batch", 8, 0, depth=8).state_dict(), [X])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_spec_without_groups_gives_the_identity():
    model = digits_network("mlp", "none", 8, 0, depth=1)
    state = model.state_dict()
    spec = PermutationSpec.by_hand(state, {})
    assert match_activations(spec, model, state, state, [X]).permutation == {}


def test_what_cannot_be_measured_is_refused():
    model = trained("mlp", "none", 8, 0, depth=1)
    spec, state = perceptron_spec(model), model.state_dict()
    with pytest.raises(ValueError, match="no batches"):
        match_activations(spec, model, state, state, [])
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"weight must be 0 or more and finite, got {weight}"):
            match_activations(spec, model, state, state, [X], weight)
    with pytest.raises(StateError, match=r"candidate: tensor 'fc\.bias' is missing"):
        match_activations(spec, model, state, {n: t for n, t in state.items() if n != "fc.bias"}, [X])


def test_half_precision_correlates_as_single_does_however_many_samples():
    rows = torch.randn(2, 70_000, generator=torch.Generator().manual_seed(0))
    rows[1] = 0.5 * rows[0] + 0.87 * rows[1]
    torch.testing.assert_close(
        Correlation(rows.half(), rows.half()).matrix(), Correlation(rows, rows).matrix(), atol=1e-3, rtol=0
    )


class FromZeros(nn.Module):
    """Its first hidden state is made in fp32, whatever the network is in."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 8, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, len(x), 8)
        return self.out(self.cell(x, (start, start))[0][:, -1])


class SingleNorm(nn.Module):
    """Normalises in fp32, as networks for half precision do."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def in_part_single() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9), SingleNorm(), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2))


@pytest.mark.parametrize(
    ("make", "shape", "units"), [(FromZeros, (16, 5, 4), [8]), (in_part_single, (16, 4), [9, 7])], ids=["lstm", "norm"]
)
def test_networks_that_compute_in_single_precision_are_read_too(
    make: type[nn.Module], shape: tuple[int, ...], units: list[int]
):
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    spec = derive_spec(model, (x,))
    assert sorted(spec.groups.values(), reverse=True) == units
    read = {factor.group for tap in find_taps(spec, model, model.state_dict(), x[:2]) for s in tap.axis for factor in s}
    assert read == spec.groups.keys()
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    moved = permute(spec, planted, model.state_dict())
    found = match_activations(spec, model, model.state_dict(), moved, [x])
    assert same(found.permutation, invert(spec, planted))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_script_whose_layers_cannot_be_watched_is_refused_with_what_to_give() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x, state = torch.randn(9, 4), net.state_dict()
    compiled = cast(nn.Module, torch.jit.trace(net, x))
    spec = derive_spec(compiled, (x,))
    with pytest.raises(AlignmentError, match=r"got a TopLevelTracedModule of torch\.jit\. Give the network that"):
        match_activations(spec, compiled, state, state, [x])
    assert same(match_activations(spec, net, state, state, [x]).permutation, identity_permutation(spec))

"""REPAIR: the merged network's units get the statistics of its ends."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment.barrier import loss_sums
from alignment.batch_norm import recalibrate
from alignment.batches import network_with
from alignment.channels import channel_axes
from alignment.errors import StateError
from alignment.interpolate import interpolate
from alignment.permutation import permute
from alignment.repair import repair
from alignment.spec import State
from alignment.weight_matching import match_weights
from models.norms import ChannelNorm
from tests.hand_specs import resnet_spec
from tests.networks import Turning
from tests.trained import digits, digits_network, perceptron_spec, trained

Kind = tuple[str, str, int, int]  # name, norm, width, depth
NETWORKS: list[Kind] = [
    ("mlp", "none", 32, 3),
    ("mlp", "layer", 32, 3),
    ("mlp", "batch", 32, 3),
    ("resnet20", "layer", 16, 8),
]


def pair(name: str, norm: str, width: int, depth: int) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    first, second = (trained(name, norm, width, seed, depth) for seed in (0, 1))
    spec = perceptron_spec(first) if name == "mlp" else resnet_spec(first.state_dict())
    matching = match_weights(spec, first.state_dict(), second.state_dict())
    return first, first.state_dict(), permute(spec, matching.permutation, second.state_dict())


def held_out_loss(model: nn.Module, state: State) -> float:
    sums = loss_sums(model, state, digits()[1], cross_entropy)
    return sums.loss / sums.count


@pytest.mark.parametrize("network", NETWORKS)
def test_the_middle_of_the_path_loses_less_repaired(network: Kind):
    model, a, b = pair(*network)
    middle = interpolate(a, b, 0.5)
    repaired = repair(model, a, b, middle, digits()[0])
    fresh = digits_network(network[0], network[1], network[2], 0, network[3])
    fresh.load_state_dict(middle)
    recalibrate(fresh, digits()[0])
    assert held_out_loss(model, repaired) < 0.9 * held_out_loss(fresh, fresh.state_dict())


def layer_statistics(model: nn.Module, state: State, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []
    model.load_state_dict(state)

    def see(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        seen.append(outputs)

    with model.get_submodule(layer).register_forward_hook(see), torch.no_grad():
        model.eval()(x)
    rows = seen[0].double() if seen[0].ndim == 2 else seen[0].double().movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.std(0, correction=0)


@pytest.mark.parametrize("weight", [0.5, 0.2])
@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (("mlp", "none", 32, 3), ("layers.0.0", "layers.1.0", "fc")),
        (("resnet20", "layer", 8, 8), ("bn1", "layer2.0.bn2", "fc")),
    ],
)
def test_on_one_batch_every_unit_has_the_mean_and_deviation_between_those_of_the_ends(
    network: Kind, layers: tuple[str, ...], weight: float
):
    _, a, b = pair(*network)
    x = digits()[0][0][0]
    model = digits_network(network[0], network[1], network[2], 0, network[3])
    repaired = repair(model, a, b, interpolate(a, b, weight), [x], weight)
    for layer in layers:
        found, of_a, of_b = (layer_statistics(model, state, layer, x) for state in (repaired, a, b))
        for got, first, second in zip(found, of_a, of_b, strict=True):
            torch.testing.assert_close(got, torch.lerp(first, second, weight), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("network", NETWORKS[:2])
def test_a_network_merged_with_itself_is_left_alone(network: Kind):
    model, a, _ = pair(*network)
    repaired = repair(model, a, a, a, digits()[0][:1])
    for name, tensor in a.items():
        torch.testing.assert_close(repaired[name], tensor, atol=1e-4, rtol=1e-4)


def test_units_that_vary_little_are_repaired_too():
    _, *ends = pair(*NETWORKS[0])
    a, b = ({name: 1e-6 * t if name.startswith("layers.0.0") else t for name, t in end.items()} for end in ends)
    model, x = digits_network(*NETWORKS[0][:3], 0, NETWORKS[0][3]), digits()[0][0][0]
    repaired = repair(model, a, b, interpolate(a, b, 0.5), [x])
    got, first, second = (layer_statistics(model, state, "layers.0.0", x)[1] for state in (repaired, a, b))
    torch.testing.assert_close(got, torch.lerp(first, second, 0.5), atol=1e-12, rtol=1e-3)


def test_batch_norm_statistics_are_those_that_recalibration_gives():
    model, a, b = pair("resnet20", "batch", 8, 8)
    middle = interpolate(a, b, 0.5)
    repaired = repair(model, a, b, middle, digits()[0])
    fresh = digits_network("resnet20", "batch", 8, 0, depth=8)
    fresh.load_state_dict(middle)
    recalibrate(fresh, digits()[0])
    for name, tensor in fresh.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(repaired[name], tensor)


def test_keys_and_dtypes_and_the_callers_networks_stay():
    model, a, b = pair("mlp", "batch", 32, 3)
    before = {name: tensor.clone() for name, tensor in a.items()}
    middle = interpolate(a, b, 0.5)
    repaired = repair(model, a, b, middle, digits()[0][:2])
    assert [(name, tensor.dtype) for name, tensor in repaired.items()] == [
        (name, tensor.dtype) for name, tensor in middle.items()
    ]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_a_unit_that_never_varies_stays_finite():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    state = model.state_dict()
    state["0.weight"][0] = 0
    repaired = repair(model, state, state, state, [torch.randn(8, 3)])
    assert all(tensor.isfinite().all() for tensor in repaired.values())


class Turned(nn.Module):
    """Square outputs, whose channels no shape tells from the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ChannelNorm(4)
        self.convolution = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 4)
        self.silent = nn.Linear(4, 4)
        self.without = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.without(self.linear(self.convolution(self.norm(x))))


def test_the_axis_of_the_units_is_found_where_all_sizes_agree():
    assert channel_axes(Turned(), torch.randn(4, 4, 4, 4)) == {"norm": 1, "convolution": 1, "linear": 3}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_axis_of_the_units_is_found_where_half_precision_rounds_their_numbers_away(dtype: torch.dtype):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(3, 3000), nn.LayerNorm(3000)).to(dtype)
    assert channel_axes(wide, torch.randn(2, 3, dtype=dtype)) == {"0": 1, "1": 1}


@pytest.mark.parametrize("size", [1e8, 3e38])
def test_the_axis_of_the_units_is_found_whatever_numbers_a_network_comes_to(size: float):
    """Every site must tell of the same layers, though the network it is asked about overflows."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(4, 5)
    with torch.no_grad():
        first.weight.fill_(size)
        second.weight.mul_(1e8)
    model = nn.Sequential(first, second, nn.Linear(5, 6))
    assert channel_axes(model, torch.randn(2, 3)) == {"0": 1, "1": 1, "2": 1}


def test_a_bias_that_is_frozen_as_a_buffer_is_one_too() -> None:
    layer = nn.Linear(3, 4)
    bias = layer.bias.detach()
    del layer.bias
    layer.register_buffer("bias", bias)
    assert channel_axes(layer, torch.randn(2, 3)) == {"": 1}


def test_without_batches_or_with_a_state_of_another_network_it_says_so():
    model, a, b = pair("mlp", "none", 32, 3)
    with pytest.raises(ValueError, match="no batches"):
        repair(model, a, b, a, [])
    with pytest.raises(StateError, match="does not fit MLP"):
        repair(model, a, b, {"fc.bias": a["fc.bias"]}, digits()[0])


class Standardised(nn.Conv2d):
    """Its kernels have the same size whatever its weights have: no scale folds into them."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, (self.weight - mean) / deviation, self.bias)


def test_a_layer_that_does_not_scale_with_its_weights_is_left_alone():
    torch.manual_seed(0)
    made = [nn.Sequential(Standardised(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)) for _ in range(2)]
    x = torch.randn(16, 1, 8, 8)
    assert channel_axes(made[0], x) == {"2": 1}
    a, b = (dict(network.state_dict()) for network in made)
    merged = interpolate(a, b, 0.5)
    repaired = repair(made[0], a, b, merged, [x])
    assert all(torch.equal(repaired[name], merged[name]) for name in ("0.weight", "0.bias"))
    assert not torch.equal(repaired["2.weight"], merged["2.weight"])


class Again(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.again, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.again(self.a(x).relu()).relu()
        return self.c(self.again(inner).relu())


def test_a_layer_that_is_called_twice_is_left_alone_and_the_logits_come_out_as_they_should():
    """One map for both calls would give neither what it should have, and what is behind would be measured on that."""
    torch.manual_seed(0)
    model, other, x = Again(), Again(), torch.randn(64, 6)
    a, b = dict(model.state_dict()), dict(other.state_dict())
    merged = interpolate(a, b, 0.5)
    repaired = repair(model, a, b, merged, [x])
    assert torch.equal(repaired["again.weight"], merged["again.weight"])
    with torch.no_grad():
        ends = torch.stack([model(x), other(x)])
        found = network_with(model, repaired)(x)
    torch.testing.assert_close(found.mean(0), ends.mean(1).mean(0))
    torch.testing.assert_close(found.std(0), ends.std(1).mean(0))


def test_complex_layers_are_left_alone_and_the_logits_come_out_as_they_should():
    ends, x = (Turning().state_dict(), Turning().state_dict()), torch.randn(64, 4)
    merged = interpolate(*ends, 0.5)
    repaired = repair(Turning(), *ends, merged, [x])
    assert torch.equal(repaired["turn.weight"], merged["turn.weight"])
    wanted = [network_with(Turning(), end)(x).std(0, correction=0) for end in ends]
    torch.testing.assert_close(network_with(Turning(), repaired)(x).std(0, correction=0), (wanted[0] + wanted[1]) / 2)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_inputs_keeps_no_other_from_being_repaired():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.bare, self.out = nn.Linear(5, 4), nn.Linear(0, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out((self.into(x) + self.bare(x[:, :0])).relu())

    ends, x = (Bare().state_dict(), Bare().state_dict()), torch.randn(64, 5)
    merged = interpolate(*ends, 0.5)
    repaired = repair(Bare(), *ends, merged, [x])
    wanted = [network_with(Bare(), end)(x).std(0, correction=0) for end in ends]
    torch.testing.assert_close(network_with(Bare(), repaired)(x).std(0, correction=0), (wanted[0] + wanted[1]) / 2)

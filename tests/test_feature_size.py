"""Whether a network's features keep their size is told by what they do, wherever a normalisation stands."""

import pytest
import torch
from torch import Tensor, nn

from alignment.feature_size import scales_features
from models import Architecture, build, example_inputs, head_name
from server.remarks import network_remarks
from strategies.settings import parse_settings

N_HIDDEN = 3
SHIPPED = [
    ("mlp", "batch", False),
    ("mlp", "layer", False),
    ("mlp", "none", True),
    ("vgg11", "batch", False),
    ("vgg11", "none", True),
    ("resnet20", "batch", False),
    ("resnet20", "layer", False),
    ("transformer", "layer", False),
    # Its gates keep features for longer. With large steps they vanish all the same, as in `mlp`.
    ("gru", "", True),
]


class OwnNorm(nn.Module):
    """A normalisation of the user's, of no kind that is known."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / x.square().mean(-1, keepdim=True).sqrt()


def normalised(place: int | None, norm: type[nn.Module], activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Hidden layers with one normalisation, behind so many of them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(N_HIDDEN + 1):
        if place == number:
            layers.append(norm(64))
        layers += [nn.Linear(64, 64), activation()] if number < N_HIDDEN else [nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def scales(model: nn.Module, inputs: Tensor) -> bool:
    return scales_features(model, head_name(model), inputs)


def samples() -> Tensor:
    return torch.randn(2, 1, 8, 8)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, OwnNorm])
@pytest.mark.parametrize("place", range(N_HIDDEN + 1))
def test_only_a_norm_behind_the_last_hidden_layer_keeps_features_at_their_size(
    place: int, norm: type[nn.Module]
) -> None:
    assert scales(normalised(place, norm), samples()) == (place < N_HIDDEN)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid])
def test_without_a_norm_features_grow_with_the_weights_through_any_activation(activation: type[nn.Module]) -> None:
    assert scales(normalised(None, nn.Identity, activation), samples())


@pytest.mark.parametrize(("model", "norm", "told"), SHIPPED)
@pytest.mark.parametrize("seed", range(3))
def test_shipped_networks_keep_features_at_their_size_with_normalisation_alone(
    model: str, norm: str, told: bool, seed: int
) -> None:
    architecture = Architecture(model, (1, 32, 32), 10, 16, 0, norm)
    assert scales(build(architecture, seed), *example_inputs(architecture)) == told


class Orthogonal(nn.Module):
    """A layer that takes no weights but orthogonal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(64))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.allclose(self.weight @ self.weight.T, torch.eye(64)):
            raise ValueError("weights are not orthogonal")
        return x @ self.weight


def test_of_a_network_that_refuses_other_weights_nothing_is_told() -> None:
    settings = parse_settings({"model": "mlp", "head": "ridge", "rounds": 3})
    model = nn.Sequential(nn.Flatten(), Orthogonal(), nn.ReLU(), nn.Linear(64, 10))
    assert network_remarks(model, settings) == []


def test_a_network_is_left_as_it_was() -> None:
    model = normalised(1, nn.BatchNorm1d).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scales(model, samples())
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_normalised_inputs_do_not_keep_rounds_of_solved_heads_from_being_warned_of() -> None:
    settings = parse_settings({"model": "mlp", "head": "ridge", "rounds": 3})
    for place, told in ((0, True), (N_HIDDEN, False)):
        (*lines,) = network_remarks(normalised(place, nn.BatchNorm1d), settings)
        assert ["normalisation behind its last hidden layer" in line for line in lines] == [True] * told

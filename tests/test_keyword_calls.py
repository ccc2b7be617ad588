"""A layer that is given its inputs by keyword is measured as one that is given them by position."""

from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from alignment.activation_matching import match_activations
from alignment.batch_norm import batch_norm_moments
from alignment.heads import feature_sums
from alignment.least_squares import gram_sums
from alignment.logistic import logistic_sums
from alignment.permutation import permute, random_permutation
from alignment.repair import repair, unit_moments
from alignment.sequential import output_sums
from alignment.taps import find_taps
from alignment.tracing import derive_spec

LAYERS = ["convolution", "fc"]


class Network(nn.Module):
    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        self.convolution, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)
        self.by_keyword = by_keyword

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.fc, self.call(self.norm, self.call(self.convolution, x)).relu().flatten(1))

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return cast(Tensor, layer(input=x) if self.by_keyword else layer(x))


def twins() -> tuple[Network, Network]:
    one, other = Network(by_keyword=False), Network(by_keyword=True)
    other.load_state_dict(one.state_dict())
    return one, other


Batches = list[tuple[Tensor, Tensor]]


def outputs_of_layers(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    return {name: across for name, (_, across) in output_sums(model, model, batches, LAYERS).items()}


def itself_repaired(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    state = model.state_dict()
    return repair(model, state, state, state, batches)


def order_found_again(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    spec = derive_spec(model, (batches[0][0],))
    assert [tap.place.module for tap in find_taps(spec, model, model.state_dict(), batches[0][0])] == ["fc"]
    candidate = permute(spec, random_permutation(spec, torch.Generator().manual_seed(0)), model.state_dict())
    return dict(match_activations(spec, model, model.state_dict(), candidate, batches).permutation)


MEASURES: list[Callable[[nn.Module, Batches], Mapping[str, Tensor]]] = [
    batch_norm_moments,
    unit_moments,
    itself_repaired,
    outputs_of_layers,
    order_found_again,
    lambda model, batches: gram_sums(model, batches, LAYERS),
    lambda model, batches: feature_sums(model, "fc", batches, 3),
    lambda model, batches: logistic_sums(model, "fc", batches),
]
NAMES = ["batch norm", "units", "repair", "outputs", "activations", "grams", "features", "logistic"]


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_inputs_given_by_keyword_count_as_those_given_by_position(
    measure: Callable[[nn.Module, Batches], Mapping[str, Tensor]],
) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(9, 1, 4, 4), torch.randint(3, (9,))) for _ in range(2)]
    by_position, by_keyword = (measure(network, batches) for network in twins())
    assert by_position.keys() == by_keyword.keys()
    assert all(tensor.equal(by_keyword[name]) for name, tensor in by_position.items())

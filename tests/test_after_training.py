"""Networks are measured as training leaves them: holding tensors that they computed, with a gradient's graph."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune, spectral_norm

from alignment import derive_spec, loss_barrier, match_activations, match_straight_through, merge, recalibrate, repair

BATCHES = [(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3)]


class Keeps(nn.Module):
    """Keeps an auxiliary loss for who trains it, as mixtures of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)
        self.loss: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        self.loss = x.square().mean()
        return x


def first_layer(kind: str) -> nn.Module:
    if kind == "keeps a loss":
        return Keeps()
    layer = nn.Linear(5, 6)
    if kind == "pruned":
        prune.l1_unstructured(layer, "weight", 0.3)
        return layer
    return spectral_norm(layer)


def left_by_training(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(first_layer(kind), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    cross_entropy(network(BATCHES[0][0]), BATCHES[0][1]).backward()
    return network


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["keeps a loss", "pruned", "spectral norm"])
def test_a_network_that_holds_what_it_computed_is_measured_as_any_other(kind: str, half: bool) -> None:
    model = left_by_training(kind, 0)
    model = model.half() if half else model
    states = model.state_dict(), left_by_training(kind, 1).to(next(model.parameters()).dtype).state_dict()
    batches = [(x.to(next(model.parameters()).dtype), y) for x, y in BATCHES]
    spec = derive_spec(model, (batches[0][0],))
    assert spec.groups
    match_straight_through(spec, model, *states, batches, cross_entropy, steps=1)
    match_activations(spec, model, *states, batches)
    repair(model, *states, merge(spec, *states), batches)
    loss_barrier(model, *states, batches, cross_entropy, points=2, recalibrate_with=batches)
    recalibrate(model, batches)

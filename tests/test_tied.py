"""A tensor that a network has under two names stays one tensor, and what cannot be set alone is left alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment import straight_through
from alignment.batch_norm import batch_norm_moments, recalibrate, write_moments
from alignment.interpolate import interpolate
from alignment.linear_layers import gram_sizes
from alignment.matching import Matching
from alignment.repair import corrected_moments, fold, goals_between, repair, unit_moments
from alignment.sequential import fitted_in_sequence
from alignment.spec import PermutationSpec, State
from alignment.tied import tied_names
from alignment.tracing import derive_spec
from alignment.weight_matching import match_weights


class Body(nn.Module):
    """Of its layers, `one` and `last` alone have their tensors to themselves."""

    def __init__(self, tie: Callable[["Body"], None]) -> None:
        super().__init__()
        self.one, self.two, self.three, self.last = (nn.Linear(n, m) for n, m in ((5, 4), (4, 4), (4, 4), (4, 3)))
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.three(self.two(self.one(x).relu()).relu()).relu())


def one_parameter(body: Body) -> None:
    body.three.weight = body.two.weight


def one_memory(body: Body) -> None:
    body.three.weight = nn.Parameter(body.two.weight.data)


def turned(body: Body) -> None:
    body.three.weight = nn.Parameter(body.two.weight.data.t())


def one_layer(body: Body) -> None:
    body.three = body.two


Tie = Callable[[Body], None]
TIES: list[Tie] = [one_parameter, one_memory, turned, one_layer]
INPUTS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS, torch.arange(60) % 3)]


def ends(tie: Tie) -> tuple[Body, State, State]:
    torch.manual_seed(1)
    one, other = Body(tie), Body(tie)
    return one, one.state_dict(), other.state_dict()


def repaired(model: nn.Module, a: State, b: State) -> State:
    return repair(model, a, b, interpolate(a, b, 0.5), [INPUTS])


def repaired_from_pooled_moments(model: nn.Module, a: State, b: State) -> State:
    goals = goals_between([unit_moments(holding(model, end), [INPUTS]) for end in (a, b)], (0.5, 0.5))
    merged = interpolate(a, b, 0.5)
    return fold(merged, corrected_moments(holding(model, merged), goals, [INPUTS]), goals)


def holding(model: nn.Module, state: State) -> nn.Module:
    """``model`` itself, as sites have it: of a copy, parameters in one memory no longer are."""
    model.load_state_dict(dict(state))
    return model


def fitted(model: nn.Module, a: State, b: State) -> State:
    (*_, last) = fitted_in_sequence(model, interpolate(a, b, 0.5), [a, b], [0.5, 0.5], [INPUTS])
    return last


@pytest.mark.parametrize("mend", [repaired, repaired_from_pooled_moments, fitted])
@pytest.mark.parametrize("tie", TIES)
def test_layers_that_share_a_tensor_keep_their_mean_and_the_others_do_not(
    mend: Callable[[nn.Module, State, State], State], tie: Tie
) -> None:
    model, a, b = ends(tie)
    a, b = ({name: tensor.clone() for name, tensor in state.items()} for state in (a, b))
    mean, found = interpolate(a, b, 0.5), mend(model, a, b)
    changed = {name.partition(".")[0] for name, tensor in mean.items() if not found[name].equal(tensor)}
    assert changed == {"one", "last"}


@pytest.mark.parametrize("tie", TIES)
def test_shared_tensors_are_told_by_all_their_names(tie: Tie) -> None:
    parts = ("weight", "bias") if tie is one_layer else ("weight",)
    told = {f"{layer}.{part}": [f"two.{part}", f"three.{part}"] for part in parts for layer in ("two", "three")}
    assert tied_names(Body(tie)) == told


def test_tensors_beside_each_other_in_one_memory_are_not_shared() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    flat = nn.utils.parameters_to_vector(network.parameters())
    nn.utils.vector_to_parameters(flat, network.parameters())
    assert tied_names(network) == {}
    assert list(gram_sizes(network, INPUTS[:, :3])) == ["0", "1"]


def test_statistics_of_a_norm_under_two_names_are_renewed_under_both() -> None:
    norm = nn.BatchNorm1d(5)
    twice = nn.Sequential(norm, norm, nn.Linear(5, 3))
    moments = batch_norm_moments(twice, [INPUTS])
    written = write_moments(twice.state_dict(), moments)
    assert not written["0.running_mean"].equal(norm.state_dict()["running_mean"])
    assert written["1.running_mean"].equal(written["0.running_mean"])
    recalibrate(twice, [INPUTS])
    assert norm.state_dict()["running_mean"].equal(written["0.running_mean"])


@pytest.mark.parametrize("tie", [one_parameter, one_layer])
def test_straight_through_moves_a_shared_tensor_as_one(tie: Tie, monkeypatch: pytest.MonkeyPatch) -> None:
    model, a, b = ends(tie)
    visited: list[State] = []

    def noted(spec: PermutationSpec, guide: State, *rest: Any, **options: Any) -> Matching:
        visited.append({name: tensor.clone() for name, tensor in guide.items()})
        return match_weights(spec, guide, *rest, **options)

    monkeypatch.setattr(straight_through, "match_weights", noted)
    straight_through.match_straight_through(derive_spec(model, (INPUTS,)), model, a, b, BATCHES, cross_entropy, steps=3)
    assert len(visited) == 4
    assert not visited[-1]["two.weight"].allclose(a["two.weight"], atol=1e-3)
    assert all(guide["three.weight"].equal(guide["two.weight"]) for guide in visited)

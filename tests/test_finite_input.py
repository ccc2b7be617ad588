"""Data and states with a value that is not finite are refused where they are read, by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment import (
    BatchError,
    StateError,
    batch_norm_moments,
    derive_spec,
    identity_permutation,
    interpolate,
    loss_barrier,
    match_activations,
    match_straight_through,
    permute,
    repair,
)

INPUTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(8) % 2
BATCH, BROKEN = (INPUTS, TARGETS), (INPUTS.masked_fill(INPUTS.max() == INPUTS, float("nan")), TARGETS)
State = dict[str, Tensor]


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2)).requires_grad_(False)


def infinite(state: State) -> State:
    return {**state, "3.weight": state["3.weight"] * torch.inf}


def test_a_batch_that_is_not_finite_is_refused_by_its_number(net: nn.Module) -> None:
    spec, state = derive_spec(net, (INPUTS,)), net.state_dict()
    other = {name: t + 0.1 if t.is_floating_point() else t for name, t in state.items()}
    batches = [BATCH, BROKEN]
    for read in (
        lambda: match_activations(spec, net, state, other, batches),
        lambda: match_straight_through(spec, net, state, other, batches, cross_entropy, steps=2),
        lambda: loss_barrier(net, state, state, batches, cross_entropy, points=2),
        lambda: repair(net, state, state, state, batches),
        lambda: batch_norm_moments(net, batches),
    ):
        with pytest.raises(BatchError, match="batch 1: its inputs hold a value that is not finite"):
            read()


@pytest.mark.parametrize("place", range(3))
def test_a_state_that_is_not_finite_is_refused_before_it_is_repaired(net: nn.Module, place: int) -> None:
    reference, aligned, merged = (
        infinite(net.state_dict()) if broken == place else net.state_dict() for broken in range(3)
    )
    role = ("reference", "aligned", "merged")[place]
    with pytest.raises(StateError, match=rf"{role}: tensor '3\.weight'"):
        repair(net, reference, aligned, merged, [BATCH])


@pytest.mark.parametrize("role", ["reference", "aligned"])
def test_a_state_that_is_not_finite_has_no_barrier(net: nn.Module, role: str) -> None:
    good, bad = net.state_dict(), infinite(net.state_dict())
    ends = (bad, good) if role == "reference" else (good, bad)
    with pytest.raises(StateError, match=rf"{role}: tensor '3\.weight'"):
        loss_barrier(net, *ends, [BATCH], cross_entropy, points=2)


def test_pure_maps_pass_such_values_through(net: nn.Module) -> None:
    spec, bad = derive_spec(net, (INPUTS,)), infinite(net.state_dict())
    assert permute(spec, identity_permutation(spec), bad)["3.weight"].isinf().all()
    assert not interpolate(bad, net.state_dict(), 0.5)["3.weight"].isfinite().any()

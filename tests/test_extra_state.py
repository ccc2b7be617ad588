"""What a state dict holds besides tensors (`get_extra_state`) goes its way untouched."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment import (
    StateError,
    check_spec,
    derive_spec,
    loss_barrier,
    match_activations,
    match_straight_through,
    match_weights,
    merge,
    merge_many,
    permute,
    random_permutation,
)

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Keeps a dictionary in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = nn.Linear(5, 7), nn.Linear(7, 2), {"samples": 3}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 5), Counting())


def test_states_with_more_than_tensors_are_matched_moved_and_merged() -> None:
    net, other = network(), network()
    spec, a, b = derive_spec(net, (X,)), net.state_dict(), other.state_dict()
    check_spec(net, spec, (X,))
    batches = [(X, torch.arange(8) % 2)]
    moved = permute(spec, random_permutation(spec, torch.Generator().manual_seed(1)), a)
    assert moved["1._extra_state"] == {"samples": 3}
    assert list(moved) == list(a)
    found = match_weights(spec, a, moved).permutation
    assert torch.equal(permute(spec, found, moved)["1.a.weight"], a["1.a.weight"])
    match_activations(spec, net, a, b, batches)
    match_straight_through(spec, net, a, b, batches, cross_entropy, steps=1)
    loss_barrier(net, a, b, batches, cross_entropy, points=3)
    for merged in (merge(spec, a, b), merge_many(spec, [a, b])):
        net.load_state_dict(merged)
        assert net[1].seen == {"samples": 3}


def test_something_else_in_the_place_of_a_tensor_is_refused_by_name() -> None:
    spec, state = derive_spec(network(), (X,)), network().state_dict()
    broken: dict[str, Any] = {**state, "1.a.weight": "lost"}
    with pytest.raises(StateError, match=r"'1\.a\.weight' is missing"):
        match_weights(spec, state, broken)

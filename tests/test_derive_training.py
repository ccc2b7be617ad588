"""Networks that do more in training than in evaluation are the same function in both after a permutation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignment import permute, random_permutation
from alignment.unread import unread
from tests.derived import derived, freedom

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A second classifier on the way, as in GoogLeNet, for training alone."""

    def __init__(self, aside: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3)
        self.inner, self.late, self.head = nn.Conv2d(6, 7, 1), nn.Conv2d(7, 8, 3), nn.Linear(8, 2)
        self.aux, self.aux_head = nn.Conv2d(6, 4, 1), nn.Linear(4, 2)
        self.aside, self.kept, self.dropped = aside, torch.zeros(()), 0.0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.dropout(self.norm(self.stem(x)).relu(), self.dropped, self.training)
        x = self.body(x).relu()
        out = self.head(self.late(self.inner(x).relu()).mean((2, 3)))
        if not self.training:
            return out
        extra = self.aux_head(self.aux(x).relu().mean((2, 3)))
        if self.aside:
            self.kept = extra
            return out
        return out, extra


@pytest.mark.parametrize("aside", [False, True])
def test_what_feeds_a_classifier_for_training_stays_and_the_rest_moves(aside: bool) -> None:
    net = Auxiliary(aside)
    spec = derived(net, IMAGE)
    assert freedom(spec) == {"stem": 5, "inner": 7, "late": 8}
    assert spec.fixed["body.weight", 0] == "a tensor that only training reads goes with it"
    moved = permute(spec, random_permutation(spec, torch.Generator().manual_seed(1)), net.state_dict())
    before = _in_training(net)
    net.load_state_dict(moved)
    for one, other in zip(before, _in_training(net), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_read_in_training_alone_leaves_nothing_to_warn_of() -> None:
    spec = derived(Auxiliary(), IMAGE)
    assert spec.fixed["aux.weight", 1] == "only training reads it"
    assert unread(spec) == ()


def test_weights_that_no_run_reads_are_told_where_anything_moves() -> None:
    net = Auxiliary()
    net.register_buffer("table", torch.ones(6, 6))
    net.spare = nn.Linear(6, 3)
    assert unread(derived(net, IMAGE)) == ("spare.weight",)
    still = nn.Linear(6, 2)
    still.spare = nn.Linear(6, 3)
    assert unread(derived(still, torch.ones(2, 6))) == ()


def test_dropout_ties_nothing() -> None:
    net = Auxiliary()
    net.dropped = 0.5
    assert freedom(derived(net, IMAGE)) == {"stem": 5, "inner": 7, "late": 8}


def _in_training(net: Auxiliary) -> tuple[Tensor, Tensor]:
    result = net.train()(IMAGE)
    out, extra = (result, net.kept) if isinstance(result, Tensor) else result
    return out.detach(), extra.detach()


def test_deriving_leaves_the_statistics_of_training_alone() -> None:
    net = Auxiliary()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    derived(net, IMAGE)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


def test_a_network_that_cannot_train_on_the_example_keeps_its_groups() -> None:
    class Supervised(Auxiliary):
        def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
            if self.training and targets is None:
                raise ValueError("targets are missing")
            return super().forward(x)

    assert freedom(derived(Supervised(), IMAGE)) == {"stem": 5, "body": 6, "inner": 7, "late": 8}

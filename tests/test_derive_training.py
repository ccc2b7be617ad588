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


class Discarding(nn.Module):
    """Two blocks that add to a stream, of which the last one's addition is read by nobody, as in WaveNet."""

    def __init__(self, kept: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(8, 3)
        self.gates = nn.ModuleList(nn.Linear(6, 5) for _ in range(2))
        self.skips = nn.ModuleList(nn.Linear(5, 8) for _ in range(2))
        self.streams = nn.ModuleList(nn.Linear(5, 6) for _ in range(2))
        self.keeps, self.kept = kept, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        x, skipped = self.stem(x), torch.zeros(())
        for gate, skip, stream in zip(self.gates, self.skips, self.streams, strict=True):
            hidden = gate(x).tanh()
            x, skipped = x + stream(hidden), skipped + skip(hidden)
        self.kept = [x.square()] if self.keeps else []
        return self.head(skipped.relu())


def test_what_every_run_discards_keeps_nothing_in_place() -> None:
    spec = derived(Discarding(), torch.randn(2, 4))
    assert freedom(spec) == {"stem": 6, "head": 8, "gates.0": 5, "gates.1": 5}
    assert spec.fixed["streams.1.weight", 0] == "it has no say in the outputs of the traced run"
    assert unread(spec) == ("streams.1.weight",)


def test_what_a_module_keeps_aside_in_every_run_keeps_its_sources_in_place() -> None:
    spec = derived(Discarding(kept=True), torch.randn(2, 4))
    assert freedom(spec) == {"head": 8, "gates.0": 5}
    assert spec.fixed["stem.weight", 0] == "a tensor that only training reads goes with it"


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


class Variational(nn.Module):
    """Means and log-variances of a code in one layer, of which evaluation reads the means alone."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        self.stem, self.code, self.head, self.cut = nn.Linear(4, 7), nn.Linear(7, 10), nn.Linear(5, 3), cut

    def forward(self, x: Tensor) -> Tensor:
        both = self.code(self.stem(x).relu())
        if self.cut == "slice" and not self.training:
            return self.head(both[:, :5])
        mean, spread = both.chunk(2, -1)
        return self.head(mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean)


@pytest.mark.parametrize("cut", ["chunk", "slice"])
def test_the_variance_of_a_unit_that_training_alone_reads_goes_where_its_mean_goes(cut: str) -> None:
    net = Variational(cut)
    spec = derived(net, torch.randn(2, 4))
    assert freedom(spec) == {"stem": 7, "code": 5}
    state = {**net.state_dict(), "code.bias": torch.arange(10.0)}
    moved = permute(spec, random_permutation(spec, torch.Generator().manual_seed(1)), state)
    mean, spread = moved["code.bias"].chunk(2)
    assert torch.equal(spread - mean, torch.full((5,), 5.0))
    assert not torch.equal(mean, torch.arange(5.0))

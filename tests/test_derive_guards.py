"""A look at the data that can only end in an error hides no branch; every other look does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.derived import derived, freedom

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
EVERYTHING = {"a": 7, "b": 6, "c": 8}


class Net(nn.Module):
    """Looks at the data in its own forward: a branch here would concern all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 8), nn.Linear(8, 2)
        self.kept = 0.0

    def begin(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())

    def end(self, x: Tensor) -> Tensor:
        return self.d(self.c(x).relu())

    def keep(self, number: float) -> bool:
        self.kept = number
        return True


class Checked(Net):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise ValueError("not finite")
        y = self.begin(x)
        assert y.abs().max() < 100
        assert y.abs().max().item() < 100 and float(y.sum()) < 100, "too large"  # noqa: PT018
        if torch.isnan(y).any() or y.max() > 1e9:
            raise RuntimeError("broken")
        self.check(y)
        return self.end(y)

    def check(self, y: Tensor) -> None:
        with torch.no_grad():
            torch._assert((y < 1000).all(), "too large")  # pyright: ignore[reportPrivateUsage]


class Validated(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.distributions.Categorical(logits=self.begin(x), validate_args=True).probs)


@pytest.mark.parametrize("net", [Checked, Validated])
def test_a_look_that_can_only_raise_fixes_nothing(net: type[Net]) -> None:
    assert freedom(derived(net(), X)) == EVERYTHING


class Encoded(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        return self.end(y + F.one_hot(y.argmax(-1), 6).to(y))


def test_a_one_hot_code_costs_the_units_that_it_numbers() -> None:
    spec = derived(Encoded(), X)
    assert freedom(spec) == {"a": 7, "c": 8}
    assert spec.fixed["b.weight", 0] == "operation argmax"


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        if y.max() > 1e9:
            y = y.flip(1)
        return self.end(y)


class Otherwise(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        if y.max() < 1e9:
            y = y.relu()
        else:
            raise ValueError("too large")
        return self.end(y)


class Catching(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        try:
            if y.max() > 1e9:
                raise RuntimeError("too large")
        except RuntimeError:
            y = y.flip(1)
        return self.end(y)


class CaughtByTheCaller(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        try:
            self.check(y)
        except RuntimeError:
            y = y.flip(1)
        return self.end(y)

    def check(self, y: Tensor) -> None:
        if y.max() > 1e9:
            raise RuntimeError("too large")


class Named(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        if (most := y.max().item()) > 1e9:
            raise RuntimeError("too large")
        return self.end(y if most > -1e9 else y.flip(1))


class Keeping(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        assert self.keep(y.max().item())
        return self.end(y if self.kept < 1e9 else y.flip(1))


class Before(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        most = y.max().item()
        assert most < 1e9
        return self.end(y if most > -1e9 else y.flip(1))


class Looping(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        for turned in self.turns(y):
            y = turned
        return self.end(y)

    def turns(self, y: Tensor) -> Iterator[Tensor]:
        return iter(_Turns(y))


class _Turns:
    def __init__(self, y: Tensor) -> None:
        self.y, self.left = y, 3

    def __iter__(self) -> _Turns:
        return self

    def __next__(self) -> Tensor:
        self.left -= 1
        if self.left < 0 or self.y.max() < 1e9:
            raise StopIteration
        return self.y.flip(1)


class Unnumbered(Net):
    """Without a number of classes the greatest value decides on a shape."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.begin(x)
        return self.end(y + F.one_hot(y.argmax(-1)).sum())


@pytest.mark.parametrize(
    "net", [Branching, Otherwise, Catching, CaughtByTheCaller, Named, Keeping, Before, Looping, Unnumbered]
)
def test_any_other_look_fixes_the_module(net: type[Net]) -> None:
    spec = derived(net(), X)
    assert spec.groups == {}
    assert spec.fixed["a.weight", 0].startswith("data-dependent control flow: _local_scalar_dense in the network")


def test_a_look_from_code_without_source_fixes_the_module() -> None:
    scope: dict[str, type[Net]] = {"Net": Net}  # pyright: ignore[reportAssignmentType]
    code = "class Hidden(Net):\n def forward(self, x):\n  assert x.max() < 1e9\n  return self.end(self.begin(x))\n"
    exec(code, scope)  # pyright: ignore[reportArgumentType]
    assert derived(scope["Hidden"](), X).groups == {}

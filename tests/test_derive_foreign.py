"""What is no ordinary operation on ordinary tensors: functions handed to operations, sparse layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.derived import derived, freedom
from tests.test_derive_unknown import VECTOR, Part, around


class _Choosing(Part):
    """One of two functions runs, by a value that lies on the device."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.b(torch.cond(hidden.sum() > 0, self.one, self.other, (hidden,)))

    def one(self, x: Tensor) -> Tensor:
        return self.a(self.b(x.flip(1)))

    def other(self, x: Tensor) -> Tensor:
        return x


def _doubled(x: Tensor) -> Tensor:
    return x * 2


def _reversed(x: Tensor) -> Tensor:
    return x.flip(1)


def _torch_cond(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, _doubled, _reversed, (x,))


def test_a_choice_between_functions_is_an_unknown_operation() -> None:
    spec = derived(around(Part(_torch_cond)), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "3.b": 6, "4": 8}
    assert spec.fixed["3.a.weight", 0] == "unknown operation cond"


def test_a_choice_between_functions_that_hold_modules_fixes_all_that_they_can_reach() -> None:
    spec = derived(around(_Choosing(torch.relu)), VECTOR)
    assert freedom(spec) == {"0": 7, "4": 8}
    assert spec.fixed["3.a.weight", 0] == "data-dependent control flow: cond in 3"


def test_a_choice_between_functions_that_hold_tensors_fixes_these() -> None:
    class Holding(Part):
        def forward(self, x: Tensor) -> Tensor:
            weight, hidden = self.b.weight, self.a(x)

            def shifted(z: Tensor) -> Tensor:
                return z + weight.sum(0).flip(0)

            return self.b(torch.cond(hidden.sum() > 0, _doubled, shifted, (hidden,)))

    spec = derived(around(Holding(torch.relu)), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "4": 8}


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_sparse_adjacency_leaves_the_features_free(layout: torch.layout) -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 7), nn.Linear(7, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return self.c(torch.sparse.mm(adjacency, self.b(torch.relu(adjacency @ self.a(x)))))

    adjacency = torch.eye(2).roll(1, 0).to_sparse(layout=layout)
    assert freedom(derived(Graph(), VECTOR, adjacency)) == {"a": 7, "b": 6}


def test_a_sparse_tensor_of_the_state_dict_stays() -> None:
    class Graph(Part):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.register_buffer("adjacency", torch.eye(2).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.get_buffer("adjacency") @ x)

    spec = derived(around(Graph()), VECTOR)
    assert freedom(spec) == {"0": 7, "2": 6, "3.a": 5, "3.b": 6, "4": 8}
    assert spec.fixed["3.adjacency", 0] == "a tensor in a sparse layout"


class SingleNorm(nn.Module):
    """Computes in fp32 whatever comes, as networks for half precision do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class SingleSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1, dtype=torch.float32).to(x.dtype)


@pytest.mark.parametrize("middle", [SingleNorm(6), SingleSoftmax()], ids=["norm", "softmax"])
def test_rounding_to_fp32_within_the_network_is_no_failed_proof(middle: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 6), middle, nn.ReLU(), nn.Linear(6, 3))
    assert freedom(derived(net, VECTOR)) == {"0": 6}


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6, dtype=torch.cfloat), nn.Linear(6, 3, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.b(self.a(x.to(torch.cfloat)) ** 2))


def test_complex_numbers_of_single_precision_are_held_to_what_it_can() -> None:
    assert freedom(derived(Complex(), VECTOR)) == {"a": 6}

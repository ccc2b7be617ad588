"""Small networks that have learnt scikit-learn's digits, for tests that need real ones. Each is trained once."""

from functools import cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from alignment.spec import PermutationSpec
from models import Architecture

Batches = list[tuple[Tensor, Tensor]]


@cache
def digits() -> tuple[Batches, Batches]:
    """Training batches of 128 and the held-out fifth as batches of 256."""
    images, labels = cast(tuple[NDArray[np.float64], NDArray[np.int64]], load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16 - 0.5
    y = torch.tensor(labels, dtype=torch.int64)[order]
    held = len(y) // 5
    return _batches(x[held:], y[held:], 128), _batches(x[:held], y[:held], 256)


def _batches(x: Tensor, y: Tensor, size: int) -> Batches:
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))


def digits_network(name: str, norm: str, width: int, seed: int, depth: int = 0) -> nn.Module:
    """An untrained network for digits."""
    return models.build(Architecture(name, (1, 8, 8), 10, width, depth, norm), seed)


@cache
def trained(name: str, norm: str, width: int, seed: int, depth: int = 0, epochs: int = 6) -> nn.Module:
    """A network that has learnt the training batches; shared between tests: do not change it."""
    network = digits_network(name, norm, width, seed, depth)
    fit(network, digits()[0], epochs)
    return network.eval().requires_grad_(False)


def fit(network: nn.Module, batches: Batches, epochs: int) -> None:
    """Trains ``network`` in place with Adam on a one-cycle rate."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    steps = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=epochs * len(batches))
    network.train()
    for _ in range(epochs):
        for x, y in batches:
            optimiser.zero_grad()
            cross_entropy(network(x), y).backward()
            optimiser.step()
            steps.step()


def perceptron_spec(network: nn.Module) -> PermutationSpec:
    """The permutation spec of an MLP of `models`: one group for each hidden layer."""
    state, axes = network.state_dict(), dict[str, tuple[str | None, ...]]()
    before: str | None = None
    for name, tensor in state.items():
        group = ".".join(name.split(".")[:2])
        if tensor.ndim == 2:
            rows = None if name == "fc.weight" else group
            axes[name], before = (rows, before), rows
        elif tensor.ndim == 1 and name != "fc.bias":
            axes[name] = (group,)
    return PermutationSpec.by_hand(state, axes, frozenset(name for name in state if ".running_" in name))

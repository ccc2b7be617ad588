"""The network, the data of a node, training and evaluation: nothing here knows of federation."""

from typing import cast

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EXAMPLE = torch.zeros(2, 1, 8, 8)
CLASSES = 10
BATCH_SIZE = 32


class Block(nn.Module):
    """Two convolutions with BatchNorm around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the shape of ``inputs``."""
        return torch.relu(inputs + self.second(self.first(inputs)))


def network(width: int = 32) -> nn.Module:
    """A residual network of five convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width),
        Block(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, CLASSES),
    )


def load_data(partition: int, n_partitions: int) -> tuple[TensorDataset, TensorDataset]:
    """A node's training and held-out samples. It has 80 % of the classes that are its own, and few of all others."""
    pixels, classes = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(classes).long()
    drawn = torch.Generator().manual_seed(0)
    home = labels % n_partitions
    other = (home + torch.randint(1, max(2, n_partitions), labels.shape, generator=drawn)) % n_partitions
    owner = torch.where(torch.rand(labels.shape, generator=drawn) < 0.8, home, other)
    held_out = torch.rand(labels.shape, generator=drawn) < 0.2
    mine = owner == partition
    train, test = mine & ~held_out, mine & held_out
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def train(model: nn.Module, samples: TensorDataset, epochs: int, seed: int) -> None:
    """Trains in place."""
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-3)
    batches = DataLoader(samples, BATCH_SIZE, shuffle=True)
    model.train()
    for _ in range(epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, samples: TensorDataset) -> float:
    """The share of right answers."""
    inputs, targets = samples.tensors
    return float((model.eval()(inputs).argmax(-1) == targets).float().mean())

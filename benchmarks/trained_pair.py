"""Two ResNet-18 trained on scikit-learn's digits from different seeds, cached outside the repository."""

import os
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.architecture import Architecture
from models.build import build

ARCHITECTURE = Architecture("resnet18", (1, 32, 32), 10)
EPOCHS = 5
BATCH = 64
HELD_OUT = 297


def trained(seed: int) -> nn.Module:
    """The network of that seed, trained for `EPOCHS` (under a minute) or read from the cache."""
    model = build(ARCHITECTURE, seed)
    path = _cache() / f"resnet18-width{ARCHITECTURE.width or 64}-digits-{EPOCHS}-epochs-seed{seed}.safetensors"
    if not path.exists():
        _train(model, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(model.state_dict()))
    model.load_state_dict(load(path.read_bytes()))
    return model.eval()


def accuracy(model: nn.Module) -> float:
    """On the digits held out."""
    images, labels = _digits()
    with torch.no_grad():
        return (model(images[:HELD_OUT]).argmax(1) == labels[:HELD_OUT]).double().mean().item()


def _train(model: nn.Module, seed: int) -> None:
    images, labels = (tensor[HELD_OUT:] for tensor in _digits())
    generator = torch.Generator().manual_seed(seed)
    steps = EPOCHS * (len(labels) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, BATCH * (steps // EPOCHS), BATCH):
            batch = order[start : start + BATCH]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()


def _digits() -> tuple[Tensor, Tensor]:
    data, target = cast(tuple[NDArray[np.float64], NDArray[np.int64]], load_digits(return_X_y=True))
    images = torch.as_tensor(data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return images.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.as_tensor(target)


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "fedrebasin" / "benchmarks"

"""Training at a site: stochastic gradient descent with a warm start and a cosine end, on the site's own samples."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from client.sources import Samples


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``seed`` orders the samples."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


def train(model: nn.Module, samples: Samples, schedule: Schedule, device: torch.device) -> float:
    """Trains ``model`` in place and returns the mean loss of the last epoch, in nats per sample."""
    generator = torch.Generator().manual_seed(schedule.seed)
    model.to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=schedule.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )
    steps = schedule.epochs * max(1, math.ceil(len(samples) / schedule.batch_size))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps + 1, pct_start=0.2, cycle_momentum=False
    )
    loss = 0.0
    for _ in range(schedule.epochs):
        loss = _epoch(model, samples, schedule.batch_size, optimizer, scheduler, device, generator)
    return loss


def _epoch(
    model: nn.Module,
    samples: Samples,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
    generator: torch.Generator,
) -> float:
    total, count = 0.0, 0
    for inputs, targets in samples.batches(batch_size, device, generator):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(targets)
        count += len(targets)
    return total / count

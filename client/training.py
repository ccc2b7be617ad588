"""Training at a site: stochastic gradient descent with a warm start and a cosine end, on the site's own samples."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from client.sources import Samples


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``seed`` orders the samples; ``autocast`` forms products in bfloat16."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    autocast: bool = False


def train(model: nn.Module, samples: Samples, schedule: Schedule, device: torch.device) -> float:
    """Trains ``model`` in place and returns the mean loss of the last epoch, in nats per sample; 0 without an epoch."""
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
        loss = _epoch(model, samples, schedule, optimizer, scheduler, generator)
    return loss


def _epoch(
    model: nn.Module,
    samples: Samples,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> float:
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for inputs, targets in samples.batches(schedule.batch_size, device, generator):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=schedule.autocast):
            logits = model(inputs)
        loss = nn.functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(targets)
        count += len(targets)
    return total / count

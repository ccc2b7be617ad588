"""Training at a site: stochastic gradient descent with a warm start and a cosine end, on the site's own samples."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.sources import Samples

# The share of the steps in which the learning rate rises.
RISE = 0.2


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; ``seed`` orders the samples and decides dropout.

    ``autocast`` forms products in bfloat16.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    autocast: bool = False


@dataclass(frozen=True)
class Teacher:
    """Networks whose averaged class probabilities a training stays near, and how much that weighs."""

    networks: Sequence[nn.Module]
    weight: float

    def divergence(self, inputs: Tensor, logits: Tensor) -> Tensor:
        """``weight`` · KL(ensemble ‖ softmax ``logits``), the mean over the samples (arXiv 1503.02531), in nats."""
        with torch.no_grad():
            wanted = torch.stack([network(inputs).softmax(-1) for network in self.networks]).mean(0)
        divergence = nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean")
        return self.weight * divergence


@dataclass(frozen=True)
class Objective:
    """What a training makes small: the cross-entropy, of logits to which ``shift`` is added, and a ``teacher``'s pull.

    With τ · the logarithms of the class frequencies as ``shift`` the network learns what tells classes apart, and not
    which of them are frequent here (logit adjustment, arXiv 2007.07314, equation 10). The logit of a class that the
    samples lack is left out, −∞.
    """

    shift: Tensor | None = None
    teacher: Teacher | None = None

    def loss(self, inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples, in nats."""
        shifted = logits if self.shift is None else logits + self.shift.to(logits)
        loss = nn.functional.cross_entropy(shifted, targets)
        return loss if self.teacher is None else loss + self.teacher.divergence(inputs, logits)


def class_shift(counts: Sequence[int], adjustment: float) -> Tensor | None:
    """``adjustment`` · log of the share that each class has of ``counts``; None for an adjustment of 0."""
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    return (adjustment * shares.log()).float() if adjustment else None


def train(
    model: nn.Module, samples: Samples, schedule: Schedule, device: torch.device, objective: Objective | None = None
) -> float:
    """Trains ``model`` in place and returns the mean loss of the last epoch, in nats per sample; 0 without an epoch."""
    generator = torch.Generator().manual_seed(schedule.seed)
    model.to(device).train()
    steps_per_epoch = max(1, math.ceil(len(samples) / schedule.batch_size))
    descent = _descent(model, schedule, steps_per_epoch, objective or Objective())
    loss = 0.0
    with _seeded(schedule.seed, device):
        for _ in range(schedule.epochs):
            total, count = 0.0, 0
            for inputs, targets in samples.batches(schedule.batch_size, device, generator):
                total += descent.step(inputs, targets) * len(targets)
                count += len(targets)
            loss = total / count
    return loss


@contextmanager
def _seeded(seed: int, device: torch.device) -> Generator[None]:
    """Has a network draw what it draws in training, as dropout does, from ``seed``, whatever the process drew before.

    A run that is resumed in another process then ends with the same bytes.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class _Descent:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    objective: Objective
    autocast: bool

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """One step on a batch, and its loss before it."""
        self.optimizer.zero_grad()
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.model(inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = self.objective.loss(inputs, logits, targets)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()


def _descent(model: nn.Module, schedule: Schedule, steps_per_epoch: int, objective: Objective) -> _Descent:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=schedule.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )
    total_steps = schedule.epochs * steps_per_epoch + 1
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        schedule.learning_rate,
        total_steps=total_steps,
        # Where the rise is just one step, OneCycleLR divides by zero.
        pct_start=RISE if RISE * total_steps != 1 else 2 * RISE,
        cycle_momentum=False,
    )
    return _Descent(model, optimizer, scheduler, objective, schedule.autocast)

"""The loss barrier on the straight path between two networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isnan

import torch
from torch import Tensor, nn

from alignment.batch_norm import recalibrate
from alignment.batches import Batch, LabelledBatch, labelled, network_with, reusable
from alignment.interpolate import interpolate
from alignment.spec import State
from alignment.validate import check_finite

Loss = Callable[[Tensor, Tensor], Tensor]

DEFINITION = "max over λ of L(λ) - ½(L(0) + L(1)), in nats"


@dataclass(frozen=True)
class Barrier:
    """The path between two networks, and its height.

    lambdas     from 0, the reference, to 1, the other network
    losses      mean loss at each λ; infinite where it is not a number
    accuracies  share of right answers, 0..1, at each λ; not a number where there are no classes
    barrier     as `definition` says; infinite where the loss on the way is, not a number where that of an end is
    definition  said wherever the barrier is shown: others subtract the λ-weighted ends, or count errors
    """

    lambdas: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    barrier: float
    definition: str = DEFINITION


@dataclass(frozen=True)
class LossSums:
    """Sums over samples: they pool over batches and sites by addition.

    count    samples
    loss     sum of the samples' losses
    correct  samples whose greatest output is that of their class
    """

    count: int = 0
    loss: float = 0.0
    correct: float = 0.0

    def __add__(self, other: LossSums) -> LossSums:
        """Of both samples together."""
        return LossSums(self.count + other.count, self.loss + other.loss, self.correct + other.correct)


def loss_barrier(
    model: nn.Module,
    reference: State,
    aligned: State,
    batches: Iterable[LabelledBatch],
    loss: Loss,
    points: int = 25,
    recalibrate_with: Iterable[Batch] | None = None,
) -> Barrier:
    """The barrier between ``reference`` and ``aligned``, measured at ``points`` equally spaced λ.

    Git Re-Basin, arXiv 2209.04836, definition 2.1. ``batches`` are (inputs, targets); ``loss(outputs,
    targets)`` is the mean of a batch, and batches count by their size. With ``recalibrate_with``, BatchNorm
    statistics are recomputed on those batches at each λ, the ends included.
    ``model`` gives the architecture alone and is not touched. Raises `StateError` for a state that does not
    fit it or is not finite, `BatchError` for data that is not, `ValueError` for fewer than two points.
    """
    if points < 2:
        raise ValueError(f"points must be 2 or more, λ = 0 and λ = 1, got {points}")
    check_finite(reference, "reference")
    check_finite(aligned, "aligned")
    kept = reusable(batches)
    # One iterator may be given as both.
    fresh = kept if recalibrate_with is batches else None if recalibrate_with is None else reusable(recalibrate_with)
    lambdas = [k / (points - 1) for k in range(points)]
    sums = [loss_sums(model, interpolate(reference, aligned, lam), kept, loss, fresh) for lam in lambdas]
    if sums[0].count == 0:
        raise ValueError("no batches to measure on")
    losses = [at.loss / at.count for at in sums]
    return barrier_from_losses(lambdas, losses, [at.correct / at.count for at in sums])


def loss_sums(
    model: nn.Module,
    state: State,
    batches: Iterable[LabelledBatch],
    loss: Loss,
    recalibrate_with: Iterable[Batch] | None = None,
) -> LossSums:
    """The sums of ``state`` over all samples of ``batches``, in eval mode; see `loss_barrier`."""
    network = network_with(model, state)
    if recalibrate_with is not None:
        recalibrate(network, recalibrate_with)
    with torch.no_grad():
        return sum((_sums(network, *batch, loss) for batch in labelled(batches, network)), LossSums())


def barrier_from_losses(lambdas: Sequence[float], losses: Sequence[float], accuracies: Sequence[float]) -> Barrier:
    """The barrier of a path that was measured elsewhere, at λ from 0 to 1 in ascending order.

    Raises `ValueError` when the path lacks an end or a measurement.
    """
    if len(lambdas) < 2 or lambdas[0] != 0 or lambdas[-1] != 1:
        raise ValueError(f"a path runs from λ = 0 to λ = 1, got {list(lambdas)}")
    if not len(lambdas) == len(losses) == len(accuracies):
        raise ValueError(f"{len(lambdas)} λ, {len(losses)} losses, {len(accuracies)} accuracies: expected as many")
    # A number that is none is greater than nothing, and would vanish from the maximum.
    known = [inf if isnan(loss) else loss for loss in losses]
    height = max(known) - (known[0] + known[-1]) / 2
    return Barrier(tuple(lambdas), tuple(known), tuple(accuracies), height)


def _sums(network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> LossSums:
    outputs: Tensor = network(inputs)
    targets = targets.to(outputs.device)
    mean = loss(outputs, targets).item()
    return LossSums(len(targets), mean * len(targets), _correct(outputs, targets))


def _correct(outputs: Tensor, targets: Tensor) -> float:
    """Right answers; of samples with several labels each, the right share of the labels."""
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1:
        return float("nan")
    right = (outputs.argmax(1) == targets).reshape(len(targets), -1)
    return right.cpu().double().mean(1).sum().item()

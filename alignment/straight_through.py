"""Straight-through estimator matching (Git Re-Basin, arXiv 2209.04836, section 3.3, Algorithm 2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isnan

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alignment.barrier import Loss, loss_sums
from alignment.batch_norm import batch_norms
from alignment.batches import LabelledBatch, copy_of, joined_rows, labelled, network_with, on_device_of, pairs, reusable
from alignment.interpolate import interpolate
from alignment.matching import Matching
from alignment.permutation import Permutation, check_permutation, permute
from alignment.precision import is_continuous, is_half, widened
from alignment.real import real_pair
from alignment.spec import PermutationSpec, State
from alignment.tied import tied_names
from alignment.validate import check_pair
from alignment.weight_matching import match_weights

RATE = 1e-2
"""Of Adam."""


def match_straight_through(
    spec: PermutationSpec,
    model: nn.Module,
    reference: State,
    candidate: State,
    batches: Iterable[LabelledBatch],
    loss: Loss,
    steps: int = 100,
    start: Permutation | None = None,
    generator: torch.Generator | None = None,
) -> Matching:
    """The permutation of ``candidate`` with the least loss halfway to ``reference``, of those that a descent visits.

    A network θ̃ starts as the reference. Each of ``steps`` moves it by Adam along the gradient of the loss of

        ½ (reference + π(candidate)),   π = argmax Σ ⟨θ̃, π(candidate)⟩,

    as if π(candidate) were θ̃ itself: the gradient passes straight through the projection, which is weight matching
    from the last π. The first π is ``start``, by default that of weight matching. After each pass over ``batches``
    the π at hand is judged by its loss on all of them. The first is judged too and ties keep the incumbent, so there
    the result is never worse than where it began. BatchNorm layers use the statistics of the batch, which a lone sample
    does not have: it joins its neighbour. They are recalibrated before π is judged.

    ``batches`` are (inputs, targets), ``loss(outputs, targets)`` is a mean. ``objective`` and ``gain`` are those of
    the weights. Networks in half precision descend in fp32. A tensor under several names is one, and moves by all its
    uses. A step costs a forward pass, a backward pass and a weight matching: a method for sites. Raises `StateError`
    for states that do not fit or are not finite, `BatchError` for data that is not, `ValueError` without batches.
    """
    check_pair(spec, reference, candidate)
    task = _Task(spec, _single(model), _wide(reference), _wide(candidate), _WideBatches(reusable(batches)), loss)
    pair = real_pair(spec, reference, candidate)
    if start is None:
        first = match_weights(spec, reference, candidate, generator=generator)
    else:
        check_permutation(spec, start)
        first = Matching(start, 0.0, 0.0, 0, converged=False)
    best = _descend(task, first, steps, generator)
    objective = pair.objective(best.permutation)
    return replace(best, objective=objective, gain=objective - pair.baseline)


@dataclass(frozen=True)
class _Task:
    spec: PermutationSpec
    model: nn.Module
    reference: State
    candidate: State
    batches: Iterable[LabelledBatch]
    loss: Loss

    def midpoint(self, permutation: Permutation) -> dict[str, Tensor]:
        return interpolate(self.reference, permute(self.spec, permutation, self.candidate), 0.5)

    def judge(self, permutation: Permutation) -> float:
        middle = self.midpoint(permutation)
        sums = loss_sums(self.model, middle, self.batches, self.loss, recalibrate_with=self.batches)
        if not sums.count:
            raise ValueError("no batches to measure on")
        loss = sums.loss / sums.count
        # Nothing is less than a number that is none: the first π would stay for good.
        return inf if isnan(loss) else loss


def _wide(state: State) -> dict[str, Tensor]:
    return {name: tensor.float() if is_half(tensor) else tensor for name, tensor in state.items()}


def _single(model: nn.Module) -> nn.Module:
    """``model``, or a copy of it in fp32 where it is in half precision: gradients are lost in less."""
    return copy_of(model).float() if any(map(is_half, model.state_dict().values())) else model


@dataclass(frozen=True)
class _WideBatches:
    """``batches`` with inputs in fp32 where they are in half precision."""

    batches: Iterable[LabelledBatch]

    def __iter__(self) -> Iterator[LabelledBatch]:
        return ((widened(inputs), targets) for inputs, targets in pairs(self.batches))


def _descend(task: _Task, first: Matching, steps: int, generator: torch.Generator | None) -> Matching:
    guide = _Guide(task)
    best, least, now, done = first, task.judge(first.permutation), first, 0
    while done < steps:
        for inputs, targets in islice(guide.batches(), steps - done):
            guide.step(now.permutation, inputs, targets)
            now = match_weights(task.spec, guide.state, task.candidate, now.permutation, generator)
            done += 1
        found = task.judge(now.permutation)
        if found < least:
            best, least = now, found
    return best


class _Guide:
    """θ̃, and what moves it."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._network = network_with(task.model, task.reference)
        norms = batch_norms(self._network)
        for norm in norms.values():
            # As in training: by the statistics of the batch.
            norm.train()
        self._normalises = bool(norms)
        # A tensor that the network has under several names moves once, under the first.
        self._first = {name: group[0] for name, group in tied_names(self._network).items()}
        names = [name for name, parameter in self._network.named_parameters() if is_continuous(parameter)]
        self._moving = {name: task.reference[name].detach().clone() for name in names}
        self._optimiser = torch.optim.Adam(self._moving.values(), RATE)

    @property
    def state(self) -> dict[str, Tensor]:
        again = {name: self._moving[first] for name, first in self._first.items() if first in self._moving}
        return {**self._task.reference, **self._moving, **again}

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Those of one pass; a step for each."""
        batches = labelled(self._task.batches, self._network)
        return joined_rows(batches) if self._normalises else batches

    def step(self, permutation: Permutation, inputs: Tensor, targets: Tensor) -> None:
        """Moves θ̃ against the gradient at the midpoint of ``permutation``."""
        found = {name: t for name, t in self._task.midpoint(permutation).items() if torch.is_tensor(t)}
        once = {name: tensor for name, tensor in found.items() if self._first.get(name, name) == name}
        middle = {name: on_device_of(self._network, tensor) for name, tensor in once.items()}
        leaves = [middle[name].requires_grad_() for name in self._moving]
        # Also where the caller, who wants none himself, has switched gradients off.
        with torch.enable_grad():
            outputs: Tensor = functional_call(self._network, middle, (inputs,))
            loss = self._task.loss(outputs, targets)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        for moving, gradient in zip(self._moving.values(), gradients, strict=True):
            # Half: the midpoint moves half as far as θ̃ does.
            moving.grad = (gradient / 2).to(moving)
        self._optimiser.step()

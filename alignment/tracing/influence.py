"""Groups that an experiment says nothing about, because the outputs do not depend on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alignment.spec import Block, PermutationSpec, State
from alignment.tracing.experiment import Experiment, redraw

Place = tuple[Block, int]
"""One axis of one block on which a group moves."""


def idle_groups(experiment: Experiment, spec: PermutationSpec) -> set[str]:
    """The groups that have no say in the outputs: a permutation that leaves them alone proves nothing.

    A gradient shows influence; where there is none (`no_grad`, `detach`, signs, thresholds), so does a trial: units put
    into another order on one axis alone must change the outputs.

    A group that idles on one axis of a tensor without any influence shows that the example is too short for the
    tensor (a single step of a recurrent network): then all that it ties is unproved too.
    """
    gradients = _gradients(experiment) or {key: torch.zeros(t.shape) for key, t in experiment.state.items()}
    seen = {g for block in spec.blocks if bool(block.of(gradients[block.tensor]).any()) for g in block.groups}
    idle = _without_effect(experiment, spec, [group for group in spec.groups if group not in seen])
    tensors = {group: {block.tensor for block in spec.blocks if group in block.groups} for group in idle}
    alone = {only for only, *others in tensors.values() if not others}
    mute = {tensor for tensor in alone if not _has_a_say(experiment, tensor)}
    return idle | {g for block in spec.blocks if block.tensor in mute for g in block.groups if g is not None}


def _without_effect(experiment: Experiment, spec: PermutationSpec, groups: Sequence[str]) -> set[str]:
    """Those of ``groups`` of which no axis can be put into another order with any effect."""
    places: dict[str, list[Place]] = {group: [] for group in groups}
    for block in spec.blocks:
        for axis, group in enumerate(block.groups):
            if group in places:
                places[group].append((block, axis))
    left = list(groups)
    for turn in range(max(map(len, places.values()), default=0)):
        trials = {group: places[group][turn] for group in left if turn < len(places[group])}
        told = _telling(experiment, trials, list(trials))
        left = [group for group in left if group not in told]
    return set(left)


def _telling(experiment: Experiment, trials: dict[str, Place], groups: Sequence[str]) -> set[str]:
    """The groups whose trial changes the outputs, found by halving."""
    if not groups or not _changes(experiment, _scrambled(experiment, [trials[g] for g in groups])):
        return set()
    if len(groups) == 1:
        return set(groups)
    half = len(groups) // 2
    return _telling(experiment, trials, groups[:half]) | _telling(experiment, trials, groups[half:])


def _scrambled(experiment: Experiment, places: Iterable[Place]) -> dict[str, Tensor]:
    """The weights with units shifted by one at ``places``: an order that two units already tell from their own."""
    state = dict(experiment.state)
    for block, axis in places:
        moved = state[block.tensor].clone()
        target = moved[block.slices]
        target.copy_(block.of(moved).roll(1, axis).reshape(target.shape))
        state[block.tensor] = moved
    return state


def _has_a_say(experiment: Experiment, name: str) -> bool:
    tensor = experiment.state[name]
    other = redraw(tensor, experiment.generator) if tensor.is_floating_point() else tensor.flatten().roll(1)
    return _changes(experiment, {**experiment.state, name: other.reshape(tensor.shape)})


def _changes(experiment: Experiment, state: State) -> bool:
    try:
        return experiment.change(state) > experiment.tolerance
    except Exception:  # what refuses other weights does depend on them
        return True


def _gradients(experiment: Experiment) -> dict[str, Tensor] | None:
    """Of a random projection of the outputs, for each tensor; zeros for tensors of integers."""
    bench = experiment.bench
    bench.load(experiment.state)
    tensors = {key: t for key, t in bench.model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    wanted = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    before = [tensor.requires_grad for tensor in wanted.values()]
    try:
        with torch.enable_grad():
            for tensor in wanted.values():
                tensor.requires_grad_(True)
            outputs = [tensor for tensor in bench.outputs(experiment.inputs[0]) if tensor.requires_grad]
            total = torch.stack([_projection(tensor, experiment.generator) for tensor in outputs]).sum()
            found = torch.autograd.grad(total, list(wanted.values()), materialize_grads=True)
    except Exception:  # not differentiable, or not all the way
        return None
    finally:
        for tensor, required in zip(wanted.values(), before, strict=True):
            tensor.requires_grad_(required)
    return {**{key: torch.zeros(t.shape) for key, t in tensors.items()}, **dict(zip(wanted, found, strict=True))}


def _projection(tensor: Tensor, generator: torch.Generator) -> Tensor:
    weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    return (tensor * weights).sum().abs()

"""Keeps of a spec what experiment bears out: groups whose permutation leaves the outputs as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from alignment.difference import difference
from alignment.permutation import identity_permutation, permute, random_permutation
from alignment.spec import Axis, Factor, PermutationSpec, State
from alignment.tracing.bench import Bench
from alignment.tracing.factors import shortest

# How often weights are drawn until every group has a say in the outputs.
_MOST_DRAWS = 4


@dataclass(frozen=True)
class Experiment:
    """Inputs, the weights they are put through, and what came out."""

    bench: Bench
    state: State
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Sequence[Tensor], ...]
    generator: torch.Generator

    def deviation(self, spec: PermutationSpec, groups: Iterable[str]) -> float:
        """How far a random permutation of ``groups`` moves the outputs, relative to their scale."""
        chosen = random_permutation(spec, self.generator)
        permutation = {**identity_permutation(spec), **{group: chosen[group] for group in groups}}
        self.bench.load(permute(spec, permutation, self.state))
        runs = zip(self.inputs, self.outputs, strict=True)
        return max(difference(before, self.bench.outputs(inputs)).relative for inputs, before in runs)


def prove(bench: Bench, spec: PermutationSpec) -> PermutationSpec:
    """``spec`` without the groups that fail. Families that fail are tried again as one permutation for all.

    Every group is permuted at once, on the example and on a perturbed one, with weights drawn so that no scale is 1, no
    shift 0 and no layer zero; drawn again while a group has no influence on the outputs, since that proves nothing.
    What fails is found by halving. Cost: 5 forward passes and one backward where all hold at once.
    """
    idle = set(spec.groups)
    for seed in range(_MOST_DRAWS):
        if not idle:
            break
        experiment = _set_up(bench, torch.Generator().manual_seed(seed))
        spec = _proved(experiment, spec)
        idle = idle & spec.groups.keys() & _idle(experiment, spec)
    return without(spec, dict.fromkeys(idle, "the outputs do not depend on it"))


def without(spec: PermutationSpec, reasons: Mapping[str, str]) -> PermutationSpec:
    """``spec`` with the groups of ``reasons`` fixed; a family that loses its parent becomes a group of its own."""

    def still(axis: Axis) -> Axis:
        return shortest(
            [tuple(Factor(f.size, None if f.group in reasons else f.group) for f in segment) for segment in axis]
        )

    if not reasons:
        return spec
    fixed = dict(spec.fixed)
    for tensor, axes in spec.axes.items():
        for number, axis in enumerate(axes):
            gone = [factor.group for segment in axis for factor in segment if factor.group in reasons]
            if gone and gone[0] is not None:
                fixed.setdefault((tensor, number), reasons[gone[0]])
    return replace(
        spec,
        groups={group: size for group, size in spec.groups.items() if group not in reasons},
        axes={tensor: tuple(map(still, axes)) for tensor, axes in spec.axes.items()},
        parents={g: parent for g, parent in spec.parents.items() if g not in reasons and parent not in reasons},
        fixed=fixed,
    )


def _proved(experiment: Experiment, spec: PermutationSpec) -> PermutationSpec:
    failed = _failing(experiment, spec, list(spec.groups))
    if not failed:
        return spec
    if families := set(failed) & set(spec.parents):
        parents = {name: parent for name, parent in spec.parents.items() if name not in families}
        return _proved(experiment, replace(spec, parents=parents))
    reasons = {group: f"not proved: outputs differ by {gap:.2g}" for group, gap in failed.items()}
    return _proved(experiment, without(spec, reasons))


def _failing(experiment: Experiment, spec: PermutationSpec, groups: Sequence[str]) -> dict[str, float]:
    """The groups that move the outputs, by how much; all of them where only their combination does."""
    gap = experiment.deviation(spec, groups) if groups else 0.0
    if gap <= experiment.bench.tolerance:
        return {}
    half = len(groups) // 2
    if not half:
        return {groups[0]: gap}
    found = {**_failing(experiment, spec, groups[:half]), **_failing(experiment, spec, groups[half:])}
    return found or dict.fromkeys(groups, gap)


def _set_up(bench: Bench, generator: torch.Generator) -> Experiment:
    own = bench.state()
    inputs = (bench.inputs, _perturbed(bench.inputs, generator))
    for state in (_redrawn(own, generator), own):
        bench.load(state)
        runs = [(given, found) for given in inputs if (found := _finite_outputs(bench, given)) is not None]
        if runs:
            break
    else:
        state, runs = own, [(bench.inputs, bench.outputs(bench.inputs))]
    return Experiment(bench, state, tuple(i for i, _ in runs), tuple(o for _, o in runs), generator)


def _finite_outputs(bench: Bench, inputs: tuple[Any, ...]) -> list[Tensor] | None:
    try:
        outputs = bench.outputs(inputs)
    except Exception:  # a network may refuse inputs or weights that it was not given
        return None
    return outputs if all(bool(tensor.isfinite().all()) for tensor in outputs) else None


def _redrawn(state: State, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of the same scale without symmetry; what is nowhere negative stays so (scales, variances, masks)."""
    return {key: _redraw(t, generator) if t.is_floating_point() else t for key, t in state.items()}


def _redraw(tensor: Tensor, generator: torch.Generator) -> Tensor:
    def draw(random: Callable[..., Tensor]) -> Tensor:
        return random(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)

    if not tensor.any():
        return 0.1 * draw(torch.randn)
    scaled = tensor * (0.5 + draw(torch.rand))
    return torch.where(draw(torch.rand) < 0.5, -scaled, scaled) if (tensor < 0).any() else scaled


def _perturbed(inputs: tuple[Any, ...], generator: torch.Generator) -> tuple[Any, ...]:
    """Noise on what is continuous, another order of what is not."""

    def perturb(tensor: Tensor) -> Tensor:
        flat = tensor.reshape(-1)
        if not tensor.is_floating_point():
            return flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)].reshape(tensor.shape)
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        return tensor + 0.3 * noise * (tensor.abs().mean() or 1.0)

    perturbed: tuple[Any, ...] = pytree.tree_map_only(Tensor, perturb, inputs)
    return perturbed


def _idle(experiment: Experiment, spec: PermutationSpec) -> set[str]:
    """The groups of which nothing that they move has a gradient; none where there is no telling.

    A group that idles on one axis of a tensor without any influence shows that the example is too short for the
    tensor (a single step of a recurrent network): then all that it ties is unproved too.
    """
    gradients = _gradients(experiment)
    if gradients is None:
        return set()
    alive = {g for block in spec.blocks if bool(block.of(gradients[block.tensor]).any()) for g in block.groups}
    idle = spec.groups.keys() - alive
    tensors = {group: {block.tensor for block in spec.blocks if group in block.groups} for group in idle}
    mute = {only for only, *others in tensors.values() if not others and not gradients[only].any()}
    return idle | {g for block in spec.blocks if block.tensor in mute for g in block.groups if g is not None}


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

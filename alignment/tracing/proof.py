"""Keeps of a spec what experiment bears out: groups whose permutation leaves the outputs as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from alignment.spec import Axis, Factor, PermutationSpec
from alignment.tracing.bench import Bench
from alignment.tracing.experiment import Experiment, set_up
from alignment.tracing.factors import shortest
from alignment.tracing.influence import idle_groups

# How often weights are drawn until every group has a say in the outputs.
_MOST_DRAWS = 4
IDLE = "the outputs do not depend on it"


def prove(bench: Bench, spec: PermutationSpec) -> PermutationSpec:
    """``spec`` without the groups that fail. Families that fail are tried again as one permutation for all.

    Every group is permuted at once, on the example and on a perturbed one, with weights drawn so that no scale is 1, no
    shift 0 and no layer zero; drawn again while a group has no influence on the outputs, since that proves nothing.
    What fails is found by halving. Cost where all hold at once: 5 forward passes and one backward, up to 18 where
    there are groups of two units, see `draws_that_tell`.
    """
    idle = set(spec.groups)
    for seed in range(_MOST_DRAWS):
        if not idle:
            break
        experiment = set_up(bench, torch.Generator().manual_seed(seed))
        spec = _proved(experiment, spec)
        idle = idle & spec.groups.keys() & idle_groups(experiment, spec)
    return without(spec, dict.fromkeys(idle, IDLE))


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
    if gap <= experiment.tolerance:
        return {}
    half = len(groups) // 2
    if not half:
        return {groups[0]: gap}
    found = {**_failing(experiment, spec, groups[:half]), **_failing(experiment, spec, groups[half:])}
    return found or dict.fromkeys(groups, gap)

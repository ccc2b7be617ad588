"""Permutations of a network's units: identity, random, inverse, composition, and their action on a state dict.

A `Permutation` maps each group to an index tensor p with ``aligned[i] = candidate[p[i]]``; shape ``(units,)``, for a
family ``(units of the parent, units)``, whose row j acts below the parent's unit that has *arrived* at position j.
"""

from collections.abc import Iterable, Mapping
from math import ceil, lgamma, log

import torch
from jaxtyping import Int64
from torch import Tensor

from alignment.errors import SpecError
from alignment.spec import Block, PermutationSpec, State

Permutation = Mapping[str, Int64[Tensor, "*parent units"]]


def identity_permutation(spec: PermutationSpec) -> dict[str, Tensor]:
    """The permutation that moves nothing."""
    return {name: torch.arange(shape[-1]).expand(shape).clone() for name, shape in _shapes(spec).items()}


def random_permutation(spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """A permutation drawn uniformly, group by group in the order of the spec."""
    return {
        name: torch.rand(shape, generator=generator, dtype=torch.float64).argsort(-1)
        for name, shape in _shapes(spec).items()
    }


def draws_that_tell(spec: PermutationSpec, groups: Iterable[str]) -> int:
    """How many random permutations leave each of ``groups`` as it is, all of them, once in 10,000 times at most.

    One of two units is the identity every other time, and two such groups move alike as often.
    """
    units = min((spec.groups[name] for name in groups if spec.groups[name] > 1), default=0)
    return ceil(log(10_000) / lgamma(units + 1)) if units else 1


def invert(spec: PermutationSpec, permutation: Permutation) -> dict[str, Tensor]:
    """q with ``permute(q, permute(permutation, x)) == x``."""
    check_permutation(spec, permutation)
    inverse: dict[str, Tensor] = {}
    for name in spec.groups:
        rows = permutation[name]
        if parent := spec.parents.get(name):
            rows = rows[permutation[parent].argsort()]
        inverse[name] = rows.argsort(-1)
    return inverse


def compose(spec: PermutationSpec, outer: Permutation, inner: Permutation) -> dict[str, Tensor]:
    """The permutation that acts as ``inner`` and then ``outer``."""
    check_permutation(spec, outer)
    check_permutation(spec, inner)
    composed: dict[str, Tensor] = {}
    for name in spec.groups:
        rows = inner[name]
        if parent := spec.parents.get(name):
            rows = rows[outer[parent]]
        composed[name] = rows.gather(-1, outer[name])
    return composed


def permute(spec: PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """``state`` with its units moved: same keys, order, dtypes and devices; tensors that do not move are not copied.

    A pure map: values that are not finite, and what is no tensor (`get_extra_state`), pass through it. Raises
    `SpecError` for an index that is no permutation of its group, `StateError` for a state that does not fit.
    """
    spec.check_state(state)
    check_permutation(spec, permutation)
    moving = spec.moving
    return {n: permute_tensor(spec, permutation, n, tensor) if n in moving else tensor for n, tensor in state.items()}


def permute_tensor(spec: PermutationSpec, permutation: Permutation, name: str, tensor: Tensor) -> Tensor:
    """The tensor called ``name`` as `permute` leaves it, itself if it does not move. Checks nothing."""
    if name not in spec.moving:
        return tensor
    moved = tensor.clone()
    for block in spec.blocks_of[name]:
        target = moved[block.slices]
        target.copy_(permute_block(block, permutation, tensor).reshape(target.shape))
    return moved


def permute_block(block: Block, permutation: Permutation, tensor: Tensor, skip: int | None = None) -> Tensor:
    """``block`` of ``tensor`` in its view, each axis but ``skip`` permuted. Parents move before their families."""
    seen = block.of(tensor)
    by_generation = sorted(range(len(block.groups)), key=lambda axis: block.parents[axis] is not None)
    for axis in by_generation:
        group, parent = block.groups[axis], block.parents[axis]
        if group is None or axis == skip:
            continue
        index = permutation[group].to(seen.device)
        if parent is None:
            seen = seen.index_select(axis, index)
        else:
            seen = seen.take_along_dim(beside(index, parent, axis, seen.ndim), dim=axis)
    return seen


def check_permutation(spec: PermutationSpec, permutation: Permutation) -> None:
    """Raises `SpecError` unless ``permutation`` holds, for each group and nothing else, a permutation of its units."""
    if unknown := sorted(set(permutation) ^ set(spec.groups)):
        raise SpecError(f"group {unknown[0]!r} is not in both the permutation and the spec")
    for name, shape in _shapes(spec).items():
        index = permutation[name]
        if tuple(index.shape) != shape or index.dtype != torch.int64:
            raise SpecError(f"group {name!r}: expected int64 {shape}, got {index.dtype} {tuple(index.shape)}")
        if not torch.equal(index.sort(-1).values, torch.arange(shape[-1], device=index.device).expand(shape)):
            raise SpecError(f"group {name!r}: not a permutation of 0..{shape[-1] - 1}")


def _shapes(spec: PermutationSpec) -> dict[str, tuple[int, ...]]:
    return {
        name: (units,) if name not in spec.parents else (spec.groups[spec.parents[name]], units)
        for name, units in spec.groups.items()
    }


def beside(index: Tensor, parent: int, axis: int, ndim: int) -> Tensor:
    """What a family has for each unit, [parent's units, units], laid on view axes ``parent`` and ``axis``."""
    shape = [1] * ndim
    shape[parent], shape[axis] = index.shape
    return (index if parent < axis else index.T).reshape(shape)

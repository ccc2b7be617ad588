"""A tensor seen unit by unit: one row for everything that belongs to the same unit."""

from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from alignment.permutation import Permutation, permute
from alignment.spec import Axis, Factor, PermutationSpec, Segment

Key = tuple[str, ...]
"""The groups that move a segment, outermost first: a group, or heads and the family of units below them."""


def key_of(segment: Segment) -> Key:
    """The groups that move ``segment``; empty for one that stays."""
    return tuple(factor.group for factor in segment if factor.group is not None)


def n_units(spec: PermutationSpec, key: Key) -> int:
    """How many units ``key`` counts: of a family, those below all units of its parent."""
    return prod(spec.groups[group] for group in key)


def segment_of(spec: PermutationSpec, key: Key) -> Segment:
    """The segment that holds each unit of ``key`` once."""
    return tuple(Factor(spec.groups[group], group) for group in key)


def is_whole(spec: PermutationSpec, axis: Axis) -> bool:
    """Whether ``axis`` can be permuted by itself: no family lies on it whose parent lies elsewhere."""
    keys = [key_of(segment) for segment in axis]
    return all(group not in spec.parents or key.count(spec.parents[group]) == 1 for key in keys for group in key)


def unit_rows(axis: Axis, tensor: Tensor, number: int) -> Iterator[tuple[Key, Tensor]]:
    """For each segment of ``axis``, axis ``number`` of ``tensor``, that moves: its key and its rows [units, rest].

    Positions that belong to one unit lie in the same row.
    """
    front, start = tensor.movedim(number, 0), 0
    for segment in axis:
        stop = start + prod(factor.size for factor in segment)
        if key := key_of(segment):
            seen = front[start:stop].reshape(*(factor.size for factor in segment), -1)
            moving = [place for place, factor in enumerate(segment) if factor.group is not None]
            units = prod(segment[place].size for place in moving)
            yield key, seen.movedim(moving, tuple(range(len(moving)))).reshape(units, -1)
        start = stop


def spread(axis: Axis, values: Mapping[Key, Tensor]) -> Tensor:
    """One number for each position of ``axis``: that of its unit, zero where there is none."""
    return torch.cat([_spread(segment, values) for segment in axis])


def axis_index(spec: PermutationSpec, axis: Axis, permutation: Permutation) -> Tensor:
    """Where each position of ``axis`` takes its value from. Needs an axis that `is_whole`."""
    size = sum(prod(factor.size for factor in segment) for segment in axis)
    alone = PermutationSpec(spec.groups, {"axis": (axis,)}, spec.parents)
    return permute(alone, permutation, {"axis": torch.arange(size)})["axis"]


def _spread(segment: Segment, values: Mapping[Key, Tensor]) -> Tensor:
    sizes, key = [factor.size for factor in segment], key_of(segment)
    if not key or key not in values:
        return torch.zeros(prod(sizes), dtype=torch.float64)
    shape = [factor.size if factor.group is not None else 1 for factor in segment]
    return values[key].double().reshape(shape).expand(sizes).flatten()

"""Which axes of a network's tensors move together: the permutation spec, as plain data.

Git Re-Basin (arXiv 2209.04836, section 3.2) describes a network by the tensor axes that each permutation acts
on. Concatenation, flattening, gates and heads put several permutations, or blocks of one, on a single axis, so an
axis here is a row of *segments*, and a segment is a product of *factors*, outermost first:

==============================================  =========================================================
axis of                                         segments
==============================================  =========================================================
a linear or convolutional layer's outputs       ``[P]``
a linear layer after ``flatten`` of C x H x W   ``[P · 49]``: each unit of P owns 49 neighbours
the four gates of an LSTM                       ``[4 · P]``
a channel concatenation                         ``[P] + [Q]``
attention heads and the units within            ``[H · V]``, V a *family* with parent H: one permutation per head
==============================================  =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.errors import SpecError, StateError

State = Mapping[str, Tensor]


class Factor(NamedTuple):
    """``size`` consecutive positions that belong to ``group``, or that do not move (``group is None``)."""

    size: int
    group: str | None = None


Segment = tuple[Factor, ...]
Axis = tuple[Segment, ...]


class Block(NamedTuple):
    """A rectangle of one tensor, and the view of it in which every axis moves with at most one group.

    ``parents[k]`` is the view axis that chooses *which* permutation of a family acts on view axis ``k``.
    """

    tensor: str
    slices: tuple[slice, ...]
    view: tuple[int, ...]
    groups: tuple[str | None, ...]
    parents: tuple[int | None, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """This rectangle of ``tensor``, seen in `view`."""
        return tensor[self.slices].reshape(self.view)


@dataclass(frozen=True)
class PermutationSpec:
    """All groups of a network.

    groups   number of units of each group; of a family, the units below *one* unit of its parent
    axes     for every tensor of the state dict with at least one axis, its axes
    parents  for each family, the group whose units it lies below
    buffers  tensors, with axes or without, that are permuted but say nothing of similarity (running statistics)
    fixed    why an axis (tensor, axis number) does not move
    """

    groups: Mapping[str, int]
    axes: Mapping[str, tuple[Axis, ...]]
    parents: Mapping[str, str] = field(default_factory=dict[str, str])
    buffers: frozenset[str] = frozenset()
    fixed: Mapping[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])

    def __post_init__(self) -> None:
        for name, parent in self.parents.items():
            if name not in self.groups or parent not in self.groups or parent in self.parents:
                raise SpecError(f"family {name!r}: its parent {parent!r} must be a group without a parent")
        for tensor, axes in self.axes.items():
            for number, axis in enumerate(axes):
                self._check_factors(f"{tensor}, axis {number}", axis)

    def _check_factors(self, where: str, axis: Axis) -> None:
        for factor in (factor for segment in axis for factor in segment):
            if factor.group is not None and self.groups.get(factor.group) != factor.size:
                raise SpecError(
                    f"{where}: group {factor.group!r} has {self.groups.get(factor.group)} units, "
                    f"but the axis gives it {factor.size}"
                )

    @classmethod
    def by_hand(
        cls,
        state: State,
        axes: Mapping[str, Sequence[str | None]],
        buffers: frozenset[str] = frozenset(),
    ) -> PermutationSpec:
        """The spec that names a whole group, or None, for each axis of the tensors in ``axes``; others are fixed.

        Raises `SpecError` for a tensor that ``state`` lacks or a wrong number of axes.
        """
        groups: dict[str, int] = {}
        full: dict[str, tuple[Axis, ...]] = {}
        for name, tensor in state.items():
            if not torch.is_tensor(tensor):
                continue
            named = axes.get(name, (None,) * tensor.ndim)
            if len(named) != tensor.ndim:
                raise SpecError(f"{name}: the spec names {len(named)} axes, the tensor has {tensor.ndim}")
            groups |= {group: size for group, size in zip(named, tensor.shape, strict=True) if group is not None}
            if tensor.ndim:
                full[name] = tuple(((Factor(n, g),),) for n, g in zip(tensor.shape, named, strict=True))
        if unknown := sorted(set(axes) - set(state)):
            raise SpecError(f"{unknown[0]}: named by the spec, not in the state dict")
        return cls(groups, full, buffers=buffers)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape that ``tensor`` must have."""
        return tuple(sum(prod(f.size for f in segment) for segment in axis) for axis in self.axes[tensor])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rectangles of all tensors in which something moves, in the order of `axes`."""
        return tuple(block for tensor in self.axes for block in self._blocks_of(tensor) if any(block.groups))

    @cached_property
    def blocks_of(self) -> Mapping[str, tuple[Block, ...]]:
        """`blocks` by tensor; tensors in which nothing moves are left out."""
        return {tensor: tuple(found) for tensor, found in groupby(self.blocks, key=lambda block: block.tensor)}

    @cached_property
    def moving(self) -> frozenset[str]:
        """The tensors in which something moves."""
        return frozenset(block.tensor for block in self.blocks)

    def _blocks_of(self, tensor: str) -> Iterator[Block]:
        for cut in product(*(_cuts(axis) for axis in self.axes[tensor])):
            slices = tuple(where for where, _ in cut)
            factors = [factor for _, segment in cut for factor in segment]
            groups = tuple(factor.group for factor in factors)
            parents = tuple(self._parent_axis(tensor, group, groups) for group in groups)
            yield Block(tensor, slices, tuple(factor.size for factor in factors), groups, parents)

    def _parent_axis(self, tensor: str, group: str | None, groups: tuple[str | None, ...]) -> int | None:
        parent = self.parents.get(group) if group is not None else None
        if parent is None:
            return None
        if groups.count(parent) != 1:
            raise SpecError(f"{tensor}: family {group!r} needs its parent {parent!r} exactly once beside it")
        return groups.index(parent)

    def check_state(self, state: State, role: str = "state") -> None:
        """Raises `StateError` unless ``state`` holds every tensor of the spec in the shape the spec gives it."""
        for name in self.axes:
            if name not in state or not torch.is_tensor(state[name]):
                raise StateError(f"{role}: tensor {name!r} is missing; the spec names it")
            if tuple(state[name].shape) != self.shape(name):
                raise StateError(
                    f"{role}: tensor {name!r} has shape {tuple(state[name].shape)}, expected {self.shape(name)}"
                )
        if unknown := [name for name, t in state.items() if torch.is_tensor(t) and t.ndim and name not in self.axes]:
            raise StateError(f"{role}: tensor {unknown[0]!r} is not in the spec")


def _cuts(axis: Axis) -> Iterator[tuple[slice, Segment]]:
    """Each segment of an axis with the slice that it covers."""
    start = 0
    for segment in axis:
        stop = start + prod(factor.size for factor in segment)
        yield slice(start, stop), segment
        start = stop

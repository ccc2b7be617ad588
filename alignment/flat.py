"""Blocks seen flat: a parent and the families below it share one axis, so that each axis moves by one index."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.permutation import Permutation
from alignment.spec import Block, PermutationSpec

Mover = tuple[str, ...]
"""What moves one flat axis: a group, or a parent and, outermost first, the families that lie below it."""


class FlatBlock(NamedTuple):
    """A `Block`, its view's axes reordered by `order` and then merged to `shape`; `movers` has one per axis."""

    block: Block
    order: tuple[int, ...]
    shape: tuple[int, ...]
    movers: tuple[Mover | None, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """This block of ``tensor``, flat. A view where the layout allows it."""
        return self.block.of(tensor).permute(self.order).reshape(self.shape)


class Edge(NamedTuple):
    """One axis of one flat block: what a mover's units look like there, and what else moves beside them."""

    flat: FlatBlock
    axis: int
    others: tuple[tuple[int, Mover], ...]

    @property
    def columns(self) -> int:
        """How many numbers one unit has here."""
        return torch.Size(self.flat.shape).numel() // self.flat.shape[self.axis]


MoverEdge = tuple[Mover, Edge]
EdgesOf = Mapping[str, Sequence[MoverEdge]]
"""By group, every axis on which it or a family of it moves; see `edges_of`."""


def flatten(block: Block) -> FlatBlock:
    """``block`` with every family merged into its parent's axis."""
    merged = [
        (axis, *(child for child, parent in enumerate(block.parents) if parent == axis))
        for axis, parent in enumerate(block.parents)
        if parent is None
    ]
    sizes = [torch.Size(block.view[axis] for axis in axes).numel() for axes in merged]
    movers = tuple(_mover(block, axes) for axes in merged)
    return FlatBlock(block, tuple(axis for axes in merged for axis in axes), tuple(sizes), movers)


def edges_of(flats: list[FlatBlock], root: str) -> Iterator[MoverEdge]:
    """Every axis on which ``root`` or a family of it moves, with the mover found there."""
    for flat in flats:
        moving = [(axis, mover) for axis, mover in enumerate(flat.movers) if mover is not None]
        for axis, mover in moving:
            if mover[0] == root:
                yield mover, Edge(flat, axis, tuple(other for other in moving if other[0] != axis))


def flat_index(mover: Mover, permutation: Permutation) -> Tensor:
    """Where each position of a flat axis takes its value from."""
    index = permutation[mover[0]]
    for family in mover[1:]:
        rows = permutation[family]
        between = (1,) * (index.ndim - 1)
        index = index[..., None] * rows.shape[1] + rows.reshape(rows.shape[0], *between, rows.shape[1])
    return index.flatten()


class Position:
    """Where an ascent stands: a permutation, and the flat indices that it amounts to.

    ``is_near``: whether the networks may already be alike here, so that proofs from few columns are worth a try.
    """

    def __init__(self, spec: PermutationSpec, start: Permutation, is_near: bool = True) -> None:
        self.is_near = is_near
        self.permutation = {name: start[name].cpu() for name in spec.groups}
        self._flat: dict[Mover, Tensor] = {}

    def index(self, mover: Mover) -> Tensor:
        """The mover's flat index: the same object until the mover moves."""
        if mover not in self._flat:
            self._flat[mover] = flat_index(mover, self.permutation)
        return self._flat[mover]

    def move(self, changes: Permutation) -> None:
        """Replaces the groups in ``changes``."""
        self.permutation.update(changes)
        for mover in [mover for mover in self._flat if not changes.keys().isdisjoint(mover)]:
            del self._flat[mover]


def _mover(block: Block, axes: tuple[int, ...]) -> Mover | None:
    names = tuple(name for name in (block.groups[axis] for axis in axes) if name is not None)
    return names or None

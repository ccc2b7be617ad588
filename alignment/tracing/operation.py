"""One recorded operation as a rule sees it: axes in, axes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch.utils import _pytree as pytree

from alignment.tracing.dims import UNIT, Axes, Expr, fix, fixed_axes, unify


@dataclass(frozen=True)
class Operand:
    """A tensor that goes into an operation."""

    axes: Axes
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Mixing:
    """An operation that treats the units of ``child`` alike for all units of ``parent``: no family may lie so."""

    child: tuple[Expr, ...]
    parent: tuple[Expr, ...]


@dataclass(frozen=True)
class Operation:
    """``args`` by schema name, an `Operand` for every tensor; of the outputs their shapes, and which are read later."""

    name: str
    args: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    used: tuple[bool, ...]
    mixings: list[Mixing] = field(default_factory=list[Mixing])

    def operand(self, name: str) -> Operand:
        """The tensor argument ``name``."""
        operand = self.args[name]
        assert isinstance(operand, Operand)
        return operand

    def optional(self, name: str) -> Operand | None:
        """The tensor argument ``name``, if it was given."""
        return self.operand(name) if self.args.get(name) is not None else None

    @property
    def first(self) -> Operand:
        """The first tensor argument."""
        return self.operands[0]

    @property
    def operands(self) -> list[Operand]:
        """All tensor arguments, in order."""
        return [leaf for leaf in pytree.tree_leaves(dict(self.args)) if isinstance(leaf, Operand)]

    @property
    def why(self) -> str:
        """The operation as an operator reads it in a reason."""
        return f"operation {self.name}"

    def unify(self, a: Expr, b: Expr) -> None:
        """States that the operation pairs the units of ``a`` with those of ``b``."""
        unify(a, b, self.why)

    def fix(self, exprs: Iterable[Expr]) -> None:
        """States that the operation depends on the order of units."""
        for expr in exprs:
            fix(expr, self.why)

    def fixed(self, shape: Iterable[int]) -> Axes:
        """Axes that stay where they are because of this operation."""
        return fixed_axes(shape, self.why)

    def mix(self, child: Iterable[Expr], parent: Iterable[Expr]) -> None:
        """Notes a `Mixing`."""
        self.mixings.append(Mixing(tuple(child), tuple(parent)))


Rule = Callable[[Operation], Sequence[Axes]]


def broadcast(op: Operation, operands: Sequence[Operand]) -> Axes:
    """The axes of an element-wise operation: aligned from the right, size 1 meets anything."""
    ndim = max(operand.ndim for operand in operands)
    return tuple(_meet(op, [o.axes[axis] for o in operands if o.ndim >= -axis]) for axis in range(-ndim, 0))


def meet_all(op: Operation, operands: Iterable[Operand], axes: Axes) -> None:
    """States that operands with the shape of ``axes`` move as they do."""
    for operand in operands:
        for own, other in zip(operand.axes, axes, strict=True):
            op.unify(own, other)


def axis_number(axis: int, ndim: int) -> int:
    """A possibly negative axis counted from the front."""
    return axis % ndim if ndim else 0


def axis_numbers(axes: int | Sequence[int] | None, ndim: int) -> list[int]:
    """The axes an argument names; None and an empty list name all."""
    if axes is None or (isinstance(axes, Sequence) and not axes):
        return list(range(ndim))
    listed = [axes] if isinstance(axes, int) else axes
    return sorted(axis_number(axis, ndim) for axis in listed)


def _meet(op: Operation, exprs: Sequence[Expr]) -> Expr:
    wide = [expr for expr in exprs if expr != UNIT]
    for expr in wide[1:]:
        op.unify(wide[0], expr)
    return wide[0] if wide else UNIT


def numel(shape: Iterable[int]) -> int:
    """The number of elements."""
    return prod(shape)

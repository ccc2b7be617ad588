"""Reshapes whose meaning shows only later: is ``view(3, h, d)`` three tensors in one, or a product?

A packed projection is read slot by slot (``qkv.view(B, N, 3, h, d).unbind(2)``): its slots need not move alike. Heads
are used together (``x.view(B, N, h, d)``): every unit below a head moves with it. At the reshape both look the same. So
the parts of a reshaped dim stay *pending* while operations only move, copy or take them apart, and are settled by the
first operation that reads a slot or computes on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from alignment.tracing.dims import Axes, Dim, Expr, fix, fresh, is_fixed, merge, resolve, root, size_of, unify


@dataclass(eq=False)
class Pending:
    """``source`` seen as ``parts``, outermost first; ``slots[i]`` are the inner parts at position i of the outermost.

    A stack of tensors is the same without a source: its slots are known from the start.
    """

    source: Dim | None
    parts: tuple[Dim, ...]
    slots: list[Axes] = field(default_factory=list[Axes])
    settled: bool = False


def defer(source: Dim, sizes: Sequence[int]) -> list[Expr]:
    """The axes of ``sizes``, all above 1, that ``source`` is split into, their meaning left open."""
    return [((part,),) for part in _pend(source, tuple(Dim(size) for size in sizes)).parts]


def stacked(tensors: Sequence[Axes], why: str) -> Axes:
    """A new outermost axis, then the axes of ``tensors`` one under the other, tied only if they must be."""
    outermost = fresh(len(tensors), f"{why}: in their order")
    columns = [tuple(map(resolve, column)) for column in zip(*tensors, strict=True)]
    # What stays is in its place in every tensor alike.
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1 and not all(map(is_fixed, column))]
    parts = (outermost[0][0], *(Dim(size_of(columns[place][0])) for place in varying)) if varying else ()
    if varying:
        pending = _pend(None, parts)
        pending.slots = [tuple(columns[place][index] for place in varying) for index in range(len(tensors))]
    seen = {place: ((part,),) for place, part in zip(varying, parts[1:], strict=True)}
    return (outermost, *(seen.get(place, column[0]) for place, column in enumerate(columns)))


def settle(axes: Iterable[Expr], why: str) -> None:
    """Decides all that is pending on ``axes``: a product, or slots that move alike from now on."""
    for dim in (dim for expr in axes for product in resolve(expr) for dim in product):
        pending = _pending(dim)
        if pending is None:
            continue
        pending.settled = True
        for slot in pending.slots:
            settle(slot, why)
            for part, own in zip(pending.parts[1:], slot, strict=True):
                unify(((part,),), own, why)
        if not pending.slots and pending.source is not None:
            unify(((pending.source,),), (pending.parts,), why)


def settle_unless_outermost(expr: Expr, why: str) -> bool:
    """Whether ``expr`` is the outermost part of something pending; any other part is settled."""
    if _led_by(expr) is not None:
        return True
    settle((expr,), why)
    return False


def in_a_row(run: Sequence[Expr], why: str) -> Expr | None:
    """The axis that a reshape makes of ``run``, slot after slot, as a concatenation does: the slots stay apart.

    None unless ``run`` begins with the outermost part of something whose slots are known, and holds all other parts.
    """
    outermost, *rest = map(resolve, run)
    pending = _led_by(outermost)
    if pending is None or not pending.slots or any(((part,),) not in rest for part in pending.parts[1:]):
        return None
    slots = (take_slot(tuple(rest), outermost, index, why) for index in range(len(pending.slots)))
    return tuple(product for slot in slots for product in merge(slot))


def take_slot(axes: Axes, outermost: Expr, index: int, why: str) -> Axes:
    """``axes`` at position ``index`` of the pending part ``outermost``."""
    pending = _pending(resolve(outermost)[0][0])
    assert pending is not None
    if not pending.slots:
        _open(pending, why)
    own: dict[Expr, Expr] = {
        ((part,),): expr for part, expr in zip(pending.parts[1:], pending.slots[index], strict=True)
    }
    return tuple(own.get(resolve(expr), expr) for expr in axes)


def _pend(source: Dim | None, parts: tuple[Dim, ...]) -> Pending:
    pending = Pending(source, parts)
    for part in parts:
        part.pending = pending
    return pending


def _open(pending: Pending, why: str) -> None:
    assert pending.source is not None
    outermost, *inner = pending.parts
    fix(((outermost,),), f"{why}: read slot by slot")
    pending.slots = [tuple(fresh(part.size) for part in inner) for _ in range(outermost.size)]
    segments = tuple(product for slot in pending.slots for product in merge(slot))
    unify(((pending.source,),), segments, why)


def _led_by(expr: Expr) -> Pending | None:
    """What is pending with ``expr`` as its outermost part."""
    dims = [dim for product in resolve(expr) for dim in product]
    pending = _pending(dims[0]) if len(dims) == 1 else None
    return pending if pending is not None and pending.parts[0] is dims[0] else None


def _pending(dim: Dim) -> Pending | None:
    pending = root(dim).pending
    return pending if isinstance(pending, Pending) and not pending.settled else None

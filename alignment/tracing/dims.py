"""Tensor axes as unknowns: what is known of an axis grows as operations tie it to others.

An axis is an `Expr`: a row of segments, each a product of dims, outermost first (compare `alignment.spec.Axis`). A dim
is one of
    free    nothing known yet: its units may move
    fixed   its units stay where they are, for a reason
    linked  the same as another dim (union-find)
    bound   it stands for an expression: a sum (concatenation) or a product (reshape)

`unify` states that two axes must move together. It refines both to common cuts, as term unification does; where the
cuts are irreconcilable it fixes both. Knowledge only grows, so every earlier conclusion stays valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise
from math import prod

Product = tuple["Dim", ...]
Expr = tuple[Product, ...]
Axes = tuple[Expr, ...]

UNIT: Expr = ((),)
EMPTY = "empty"


class Dim:
    """An unknown of ``size`` >= 2 units, or of none, which is fixed. ``hint`` is what `assembly` calls its units."""

    __slots__ = ("bound", "hint", "link", "pending", "reason", "size")

    def __init__(self, size: int, reason: str | None = None, hint: str | None = None) -> None:
        self.size = size
        self.reason = reason
        self.hint = hint
        self.link: Dim | None = None
        self.bound: Expr | None = None
        self.pending: object | None = None

    @property
    def free(self) -> bool:
        """Whether nothing is known of it; of a root only."""
        return self.reason is None and self.bound is None


def fresh(size: int, reason: str | None = None, hint: str | None = None) -> Expr:
    """An axis of ``size`` units of which only ``reason`` is known. Where there are no units, none can move."""
    return UNIT if size == 1 else ((Dim(size, reason or (None if size else EMPTY), hint),),)


def fixed_axes(shape: Iterable[int], reason: str) -> Axes:
    """Axes that all stay where they are."""
    return tuple(fresh(size, reason) for size in shape)


def size_of(expr: Expr) -> int:
    """The number of positions on an axis."""
    return sum(prod(dim.size for dim in product) for product in expr)


def root(dim: Dim) -> Dim:
    """The dim that stands for all that ``dim`` is linked to."""
    while dim.link is not None:
        if dim.link.link is not None:
            dim.link = dim.link.link
        dim = dim.link
    return dim


def resolve(expr: Expr) -> Expr:
    """``expr`` in roots, with products inlined and leading sums spread; a sum further in stays one dim."""
    if _is_single(expr) and (only := root(expr[0][0])).bound is None:
        return ((only,),)
    return _join_fixed([segment for product in expr for segment in _spread(product)])


def fix(expr: Expr, reason: str) -> None:
    """States that nothing on the axis moves. The first reason is kept."""
    for product in resolve(expr):
        for dim in product:
            if dim.bound is not None:
                fix(dim.bound, reason)
            elif dim.reason is None:
                dim.reason = reason


def is_fixed(expr: Expr) -> bool:
    """Whether nothing on the axis moves."""
    return all(dim.reason is not None for product in resolve(expr) for dim in product)


def unify(a: Expr, b: Expr, why: str) -> None:
    """States that ``a`` and ``b``, of one size, move together; ``why`` is the reason where they cannot."""
    a, b = resolve(a), resolve(b)
    while a != b:
        if _is_single(a):
            return _identify(a[0][0], b)
        if _is_single(b):
            return _identify(b[0][0], a)
        if len(a) == len(b) == 1:
            return _unify_products(a[0], b[0], why)
        size = min(size_of(a[:1]), size_of(b[:1]))
        (head_a, a), (head_b, b) = cut(a, size, why), cut(b, size, why)
        unify(head_a, head_b, why)
        a, b = resolve(a), resolve(b)
    return None


def cut(expr: Expr, position: int, why: str) -> tuple[Expr, Expr]:
    """The first ``position`` places of an axis, and the rest; units do not cross between the two any more."""
    before: list[Product] = []
    rest = resolve(expr)
    while rest and position >= (size := size_of(rest[:1])):
        before.append(rest[0])
        rest, position = rest[1:], position - size
    if position:
        head, tail = _cut_product(rest[0], position, why)
        before.append(head)
        rest = (tail, *rest[1:])
    return tuple(before), rest


def merge(exprs: Sequence[Expr]) -> Expr:
    """The one axis that a reshape makes of neighbours, outermost first."""
    merged = UNIT
    for expr in map(resolve, exprs):
        if len(expr) > 1 and merged != UNIT:
            inner = Dim(size_of(expr))
            inner.bound = expr
            merged = tuple((*product, inner) for product in merged)
        else:
            merged = tuple(left + right for left in merged for right in expr)
    return merged


def split(expr: Expr, sizes: Sequence[int], why: str) -> list[Expr]:
    """The axes of ``sizes``, outermost first, that a reshape makes of one."""
    segments = resolve(expr)
    if len(sizes) == 1:
        return [segments]
    if len(segments) == 1:
        parts = [fresh(size) for size in sizes]
        unify(segments, merge(parts), why)
        return parts
    inner = prod(sizes[1:])
    if any(size_of((segment,)) % inner for segment in segments):
        return _split_evenly(segments, sizes, why)
    pieces = [split((s,), (size_of((s,)) // inner, *sizes[1:]), why) for s in segments]
    for one, other in pairwise(pieces):
        for left, right in zip(one[1:], other[1:], strict=True):
            unify(left, right, why)
    return [tuple(product for piece in pieces for product in piece[0]), *pieces[0][1:]]


def _split_evenly(segments: Expr, sizes: Sequence[int], why: str) -> list[Expr]:
    """The split of segments that straddle the cuts: every slice of the outermost axis moves alike."""
    first, rest = cut(segments, prod(sizes[1:]), why)
    while rest:
        piece, rest = cut(rest, prod(sizes[1:]), why)
        unify(first, piece, why)
    return [fresh(sizes[0], why), *split(first, sizes[1:], why)]


def _spread(product: Product) -> list[Product]:
    for place, dim in enumerate(product):
        bound = root(dim).bound
        if bound is None:
            continue
        inner = resolve(bound)
        if len(inner) == 1:
            return _spread(product[:place] + inner[0] + product[place + 1 :])
        if place == 0:
            return [segment for head in inner for segment in _spread(head + product[1:])]
    return [tuple(root(dim) for dim in product)]


def _join_fixed(segments: list[Product]) -> Expr:
    joined: list[Product] = []
    for still, run in groupby(segments, key=lambda product: all(dim.reason is not None for dim in product)):
        products = list(run)
        if still and len(products) > 1:
            reasons = (dim.reason for product in products for dim in product)
            joined.append((Dim(size_of(tuple(products)), next(reasons, "its units are read one by one")),))
        else:
            joined.extend(products)
    return tuple(joined)


def _is_single(expr: Expr) -> bool:
    return len(expr) == 1 and len(expr[0]) == 1


def _identify(dim: Dim, expr: Expr) -> None:
    """States that the root ``dim``, which is not bound, is all of the resolved ``expr``."""
    if dim.reason is not None:
        fix(expr, dim.reason)
    elif not _is_single(expr):
        dim.bound = expr
    elif expr[0][0] is not dim:
        dim.link = expr[0][0]
        dim.link.hint = dim.link.hint or dim.hint


def _unify_products(a: Product, b: Product, why: str) -> None:
    strides = sorted({*_strides(a), *_strides(b)}, reverse=True)
    if any(outer % inner for outer, inner in pairwise(strides)):
        return _fix_both(a, b, why)
    fine_a, fine_b = _refine(a, strides), _refine(b, strides)
    if fine_a is None or fine_b is None:
        return _fix_both(a, b, why)
    for one, other in zip(fine_a, fine_b, strict=True):
        unify(((one,),), ((other,),), why)
    return None


def _fix_both(a: Product, b: Product, why: str) -> None:
    reason = f"{why}: its parts do not line up"
    fix((a,), reason)
    fix((b,), reason)


def _strides(product: Product) -> list[int]:
    """How far apart neighbours on each dim lie, then the size of the whole, innermost first."""
    return list(accumulate((dim.size for dim in reversed(product)), initial=1, func=lambda x, y: x * y))


def _refine(product: Product, strides: Sequence[int]) -> list[Dim] | None:
    """``product`` cut at ``strides``, or None where that would cut through a sum."""
    own = list(reversed(_strides(product)))
    refined: list[Dim] = []
    for dim, (outer, inner) in zip(product, pairwise(own), strict=True):
        within = [stride for stride in strides if inner <= stride <= outer]
        sizes = [large // small for large, small in pairwise(within)]
        if len(sizes) == 1:
            refined.append(dim)
            continue
        if dim.bound is not None:
            return None
        parts = tuple(Dim(size, dim.reason, dim.hint if n == 0 else None) for n, size in enumerate(sizes))
        if dim.reason is None:
            dim.bound = (parts,)
        refined.extend(parts)
    return refined


def _cut_product(product: Product, position: int, why: str) -> tuple[Product, Product]:
    lead, inner = product[0], product[1:]
    step = prod(dim.size for dim in inner)
    total = lead.size * step
    if position % step:
        fix((product,), f"{why}: it cuts through a block")
    if position % step or is_fixed((product,)):
        reason = next(dim.reason for dim in resolve((product,))[0])
        return fresh(position, reason)[0], fresh(total - position, reason)[0]
    head, tail = fresh(position // step, lead.reason)[0], fresh(lead.size - position // step, lead.reason)[0]
    if lead.reason is None:
        lead.bound = (head, tail)
    return head + inner, tail + inner

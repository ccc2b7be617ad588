"""From what is known of the axes to the axes of a spec, which holds no sum below a product."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from alignment.tracing.dims import Dim, Expr, Product, fix, resolve
from alignment.tracing.recording import Value

# An axis in more pieces than this is fixed where its units interleave.
_MOST_SEGMENTS = 1024
INTERLEAVED = "its units interleave with those of a concatenation"


def spread_interleaved(values: Iterable[Value]) -> None:
    """Fixes what has a concatenation below it, until every axis is a row of products."""
    exprs = [expr for value in values for expr in value.axes or ()]
    while sum(_fix_above_sums(expr) for expr in exprs):
        pass


def segments_of(expr: Expr) -> list[Product]:
    """The segments of an axis, a sum below fixed dims written out once for each of their positions."""
    segments: list[Product] = []
    for segment in resolve(expr):
        place = _inner_sum(segment)
        if place is None:
            segments.append(segment)
            continue
        below = ((segment[place], *segment[place + 1 :]),)
        segments.extend(segments_of(below) * prod(dim.size for dim in segment[:place]))
    return segments


def _fix_above_sums(expr: Expr) -> bool:
    changed = False
    for segment in resolve(expr):
        place = _inner_sum(segment)
        if place is None:
            continue
        copies = prod(dim.size for dim in segment[:place]) * len(segment[place].bound or ())
        at_fault = segment[:place] if copies <= _MOST_SEGMENTS else segment
        changed |= any(dim.free for dim in at_fault) or at_fault is segment
        fix((at_fault,), INTERLEAVED)
    return changed


def _inner_sum(segment: Product) -> int | None:
    return next((place for place, dim in enumerate(segment) if dim.bound is not None), None)


def free_dims(exprs: Iterable[Expr]) -> list[Dim]:
    """The dims that move, in order of first appearance."""
    found = (dim for expr in exprs for segment in segments_of(expr) for dim in segment if dim.reason is None)
    return list(dict.fromkeys(found))

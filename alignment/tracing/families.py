"""Which dims may have one permutation per unit of another: the heads' inner units, a group's channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from alignment.tracing.derivation import Derivation
from alignment.tracing.dims import Axes, Dim, Expr, resolve
from alignment.tracing.dims import Product as Segment

Block = tuple[Dim, ...]


def family_parents(derivation: Derivation, own: Sequence[Dim]) -> dict[Dim, Dim]:
    """The parent of each dim of ``own`` that may be a family, in the order of ``own``.

    d may be permuted apart below each unit of h if h stands beside d, once, in every block of every tensor that holds
    d, and if no operation sums over h while it keeps d.
    """
    beside = _always_beside(derivation)
    mixed = set(_mixed(derivation))
    order = {dim: place for place, dim in enumerate(own)}
    parents: dict[Dim, Dim] = {}
    for dim in own:
        candidates = [
            other
            for other in beside.get(dim, ())
            if other in order and order[other] < order[dim] and other not in parents and (dim, other) not in mixed
        ]
        if candidates and dim not in parents.values():
            parents[dim] = max(candidates, key=lambda other: order[other])
    return parents


def blocks_of(axes: Axes) -> Iterator[Block]:
    """The rectangles of a tensor, each with the dims that move in it."""
    for segments in product(*(_spread_sums(expr) for expr in axes)):
        yield tuple(dim for segment in segments for dim in segment if dim.reason is None)


def _always_beside(derivation: Derivation) -> Mapping[Dim, set[Dim]]:
    beside: dict[Dim, set[Dim]] = {}
    for block in _all_blocks(derivation):
        once = {dim for dim in block if block.count(dim) == 1}
        for dim in set(block):
            others = once - {dim}
            beside[dim] = beside[dim] & others if dim in beside else others
    return beside


def _all_blocks(derivation: Derivation) -> set[Block]:
    recording = derivation.recording
    values = {
        *recording.state.values(),
        *(value for call in recording.calls for value in call.outputs if value.axes is not None),
    }
    return {block for value in values for block in blocks_of(value.axes or ())}


def _mixed(derivation: Derivation) -> Iterator[tuple[Dim, Dim]]:
    for mixing in derivation.mixings:
        yield from product(_dims(mixing.child), _dims(mixing.parent))


def _dims(exprs: Iterable[Expr]) -> set[Dim]:
    return {dim for expr in exprs for segment in _spread_sums(expr) for dim in segment}


def _spread_sums(expr: Expr) -> Iterator[Segment]:
    """The segments of an axis with inner sums spread too, each beside the outer dims that it lies below."""
    for segment in resolve(expr):
        inner = next((place for place, dim in enumerate(segment) if dim.bound is not None), None)
        if inner is None:
            yield segment
            continue
        bound = segment[inner].bound
        assert bound is not None
        for part in bound:
            yield from _spread_sums(((*segment[:inner], *part, *segment[inner + 1 :]),))

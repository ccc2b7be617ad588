"""Concatenation and its inverse: cat, stack, split, slice, select."""

from collections.abc import Sequence
from itertools import pairwise

from alignment.tracing.dims import UNIT, Axes, Expr, cut, is_fixed
from alignment.tracing.operation import Operand, Operation, Rule, axis_number
from alignment.tracing.slots import settle, settle_unless_outermost, stacked, take_slot


def cat(op: Operation) -> Sequence[Axes]:
    """Segments one after the other."""
    parts = [operand for operand in op.operands if operand.shape != (0,)]
    along = axis_number(op.args["dim"], parts[0].ndim)
    _meet_beside(op, parts, along)
    joined: Expr = tuple(segment for part in parts for segment in part.axes[along] if part.shape[along])
    return [(*parts[0].axes[:along], joined, *parts[0].axes[along + 1 :])]


def stack(op: Operation) -> Sequence[Axes]:
    """Tensors on a new axis, in their order."""
    parts = [operand.axes for operand in op.operands]
    along = axis_number(op.args["dim"], len(parts[0]) + 1)
    new, *rest = stacked(parts, op.why) if len(parts) > 1 else (UNIT, *parts[0])
    return [(*rest[:along], new, *rest[along:])]


def split(op: Operation) -> Sequence[Axes]:
    """Pieces of the sizes that came out."""
    x = op.first
    along = axis_number(op.args["dim"], x.ndim)
    if all(shape[along] == 1 for shape in op.shapes):
        slots = [_at(op, along, index) for index in range(x.shape[along])]
        return [(*slot[:along], UNIT, *slot[along:]) for slot in slots]
    stops = [0]
    for shape in op.shapes:
        stops.append(stops[-1] + shape[along])
    return [_between(op, along, start, stop) for start, stop in pairwise(stops)]


def slice_(op: Operation) -> Sequence[Axes]:
    """A stretch of one axis; with a step, by position."""
    x = op.first
    along = axis_number(op.args["dim"], x.ndim)
    size = x.shape[along]
    start = min(_from_front(op.args.get("start"), 0, size), size)
    if (op.args.get("step") or 1) == 1:
        return [_between(op, along, start, start + op.shapes[0][along])]
    settle([x.axes[along]], op.why)
    op.fix([x.axes[along]])
    return [(*x.axes[:along], *op.fixed([op.shapes[0][along]]), *x.axes[along + 1 :])]


def select(op: Operation) -> Sequence[Axes]:
    """One position of an axis."""
    along = axis_number(op.args["dim"], op.first.ndim)
    return [_at(op, along, op.args["index"] % op.first.shape[along])]


def unbind(op: Operation) -> Sequence[Axes]:
    """Every position of an axis."""
    along = axis_number(op.args["dim"], op.first.ndim)
    return [_at(op, along, index) for index in range(op.first.shape[along])]


def _at(op: Operation, along: int, index: int) -> Axes:
    axes = op.first.axes
    others = (*axes[:along], *axes[along + 1 :])
    if settle_unless_outermost(axes[along], op.why):
        return take_slot(others, axes[along], index, op.why)
    if not is_fixed(axes[along]):
        cut(cut(axes[along], index, op.why)[1], 1, op.why)
    return others


def _between(op: Operation, along: int, start: int, stop: int) -> Axes:
    x = op.first
    if (start, stop) == (0, x.shape[along]):
        return x.axes
    settle([x.axes[along]], op.why)
    if is_fixed(x.axes[along]):
        piece = op.fixed([stop - start])[0] if stop - start else ()
    else:
        piece = cut(cut(x.axes[along], start, op.why)[1], stop - start, op.why)[0]
    return (*x.axes[:along], piece, *x.axes[along + 1 :])


def _meet_beside(op: Operation, parts: Sequence[Operand], along: int) -> None:
    for axis in range(parts[0].ndim):
        for part in parts[1:] if axis != along else ():
            op.unify(parts[0].axes[axis], part.axes[axis])


def _from_front(position: int | None, default: int, size: int) -> int:
    if position is None:
        return default
    return max(position + size, 0) if position < 0 else position


RULES: dict[str, Rule] = {
    **dict.fromkeys(("cat", "concat", "_cat"), cat),
    "stack": stack,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"), split),
    "slice": slice_,
    "select": select,
    "unbind": unbind,
}

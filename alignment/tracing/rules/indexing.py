"""Reads by position along an axis: look-ups, sorting, shifting."""

from collections.abc import Sequence

from alignment.tracing.dims import UNIT, Axes
from alignment.tracing.operation import Operand, Operation, Rule, axis_number, axis_numbers, broadcast


def embedding(op: Operation) -> Sequence[Axes]:
    """Rows of a table: which row is a matter of the index's values."""
    table, index = op.operand("weight"), op.operand("indices")
    op.fix(table.axes[:1])
    return [(*index.axes, table.axes[1])]


def embedding_bag(op: Operation) -> Sequence[Axes]:
    """Sums of rows of a table; the bags lie by position."""
    table, per_sample = op.operand("weight"), op.optional("per_sample_weights")
    op.fix([*table.axes[:1], *op.operand("indices").axes, *op.operand("offsets").axes])
    op.fix(per_sample.axes if per_sample is not None else ())
    bags = (*op.fixed(op.shapes[0][:1]), table.axes[1])
    return [bags, *(op.fixed(shape) for shape in op.shapes[1:])]


def index_select(op: Operation) -> Sequence[Axes]:
    """Positions of one axis, in the order of the index."""
    x, index = op.operand("self"), op.operand("index")
    along = axis_number(op.args["dim"], x.ndim)
    op.fix([x.axes[along]])
    return [(*x.axes[:along], *(index.axes or op.fixed([1])), *x.axes[along + 1 :])]


def index(op: Operation) -> Sequence[Axes]:
    """``x[i, :, j]``: the indexed axes give way to the indices' broadcast axes."""
    x, indices = op.operand("self"), list(op.args["indices"])
    given: list[Operand] = [i for i in indices if i is not None]
    indexed = [axis for axis, i in enumerate(indices) if i is not None]
    op.fix([x.axes[axis] for axis in indexed])
    looked_up = broadcast(op, given)
    rest = [expr for axis, expr in enumerate(x.axes) if axis not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    place = indexed[0] if adjacent else 0
    return [(*rest[:place], *looked_up, *rest[place:])]


def by_position(op: Operation) -> Sequence[Axes]:
    """Shifting, sorting, accumulating: the axis that it runs along stays, the others pass."""
    x = op.first
    along = axis_numbers(op.args.get("dims", op.args.get("dim")), x.ndim)
    op.fix([x.axes[axis] for axis in along])
    return [
        tuple(op.fixed([size])[0] if axis in along else x.axes[axis] for axis, size in enumerate(shape))
        for shape in op.shapes
    ]


def triangle(op: Operation) -> Sequence[Axes]:
    """tril and triu tell rows and columns apart."""
    op.fix(op.first.axes[-2:])
    return [op.first.axes]


def windows(op: Operation) -> Sequence[Axes]:
    """Tensor.unfold: windows along one axis, their content on a new last axis."""
    x = op.first
    along = axis_number(op.args["dimension"], x.ndim)
    op.fix([x.axes[along]])
    n_windows, size = op.shapes[0][along], op.shapes[0][-1]
    return [(*x.axes[:along], *op.fixed([n_windows]), *x.axes[along + 1 :], *op.fixed([size]))]


def gather(op: Operation) -> Sequence[Axes]:
    """``out[i, j] = x[index[i, j], j]``: aligned on every other axis."""
    x, chosen = op.operand("self"), op.operand("index")
    along = axis_number(op.args["dim"], x.ndim)
    op.fix([x.axes[along]])
    for axis in range(x.ndim):
        if axis != along and x.shape[axis] == chosen.shape[axis]:
            op.unify(x.axes[axis], chosen.axes[axis])
        elif axis != along:
            op.fix([x.axes[axis], chosen.axes[axis]])
    return [chosen.axes]


def pack_sequence(op: Operation) -> Sequence[Axes]:
    """The steps of padded sequences in one row, by length: batch and time lie by position, features pass."""
    x = op.operand("input")
    op.fix(x.axes[:2])
    return [(*op.fixed(op.shapes[0][:1]), *x.axes[2:]), *(op.fixed(shape) for shape in op.shapes[1:])]


def pad_sequence(op: Operation) -> Sequence[Axes]:
    """The way back."""
    data = op.operand("data")
    op.fix(data.axes[:1])
    return [(*op.fixed(op.shapes[0][:2]), *data.axes[1:]), *(op.fixed(shape) for shape in op.shapes[1:])]


def scatter(op: Operation) -> Sequence[Axes]:
    """``x[index[i, j], j] = source[i, j]`` and its sums: aligned on every other axis."""
    x, chosen = op.operand("self"), op.operand("index")
    along = axis_number(op.args["dim"], x.ndim)
    others = [o for name in ("src", "source", "value") if isinstance(o := op.args.get(name), Operand) and o.ndim]
    for operand in (x, *others, *([chosen] if chosen.ndim == x.ndim else [])):
        op.fix([operand.axes[along]])
        for axis in range(x.ndim):
            if axis != along and operand.shape[axis] == x.shape[axis]:
                op.unify(x.axes[axis], operand.axes[axis])
            elif axis != along:
                op.fix([x.axes[axis], operand.axes[axis]])
    op.fix(chosen.axes if chosen.ndim < x.ndim else ())
    return [x.axes]


def index_put(op: Operation) -> Sequence[Axes]:
    """``x[i, :, j] = values``: the indexed axes by position, the rest as they come out of `index`."""
    x, values = op.operand("self"), op.operand("values")
    (read,) = index(op)
    op.fix(values.axes[: -len(read)] if values.ndim > len(read) else ())
    for own, other in zip(reversed(read), reversed(values.axes), strict=False):
        if other != UNIT:
            op.unify(own, other)
    return [x.axes]


_RUNNING = ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "topk", "roll", "flip")
_SPECTRA = ("_fft_r2c", "_fft_c2c", "_fft_c2r")

RULES: dict[str, Rule] = {
    "embedding": embedding,
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), embedding_bag),
    "index_select": index_select,
    "index": index,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill"), scatter),
    **dict.fromkeys(("index_put", "_index_put_impl"), index_put),
    **dict.fromkeys((*_RUNNING, *_SPECTRA), by_position),
    **dict.fromkeys(("tril", "triu"), triangle),
    "unfold": windows,
    "_pack_padded_sequence": pack_sequence,
    "_pad_packed_sequence": pad_sequence,
}

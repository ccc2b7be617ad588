"""Operations that only rearrange: transposes, reshapes, broadcasting copies."""

from collections.abc import Iterator, Sequence

from alignment.tracing.dims import UNIT, Axes, Expr, fresh, merge, resolve, size_of, split
from alignment.tracing.operation import Operation, Rule, axis_number, axis_numbers, numel
from alignment.tracing.slots import defer, in_a_row, settle


def permute(op: Operation) -> Sequence[Axes]:
    """Axes in a new order."""
    dims: Sequence[int] = op.args["dims"]
    return [tuple(op.first.axes[axis] for axis in dims)]


def transpose(op: Operation) -> Sequence[Axes]:
    """Two axes change places."""
    axes = list(op.first.axes)
    if axes:
        a, b = (axis_number(op.args[name], len(axes)) for name in ("dim0", "dim1"))
        axes[a], axes[b] = axes[b], axes[a]
    return [tuple(axes)]


def matrix_transpose(op: Operation) -> Sequence[Axes]:
    """A matrix turned over; a vector stays."""
    return [tuple(reversed(op.first.axes))]


def unsqueeze(op: Operation) -> Sequence[Axes]:
    """A new axis of size 1."""
    axes = list(op.first.axes)
    axes.insert(axis_number(op.args["dim"], len(axes) + 1), UNIT)
    return [tuple(axes)]


def squeeze(op: Operation) -> Sequence[Axes]:
    """Without the named axes of size 1."""
    x = op.first
    named = axis_numbers(op.args.get("dim"), x.ndim)
    return [tuple(expr for axis, expr in enumerate(x.axes) if axis not in named or x.shape[axis] != 1)]


def expand(op: Operation) -> Sequence[Axes]:
    """Copies along an axis are equal, so they may move with anything."""
    x, shape = op.first, op.shapes[0]
    new = len(shape) - x.ndim
    return [
        tuple(
            fresh(size) if axis < new or x.shape[axis - new] != size else x.axes[axis - new]
            for axis, size in enumerate(shape)
        )
    ]


def repeat(op: Operation) -> Sequence[Axes]:
    """Whole copies one after the other: ``[copies · axis]``."""
    x, repeats = op.first, op.args["repeats"]
    padded = [UNIT] * (len(repeats) - x.ndim) + list(x.axes)
    return [tuple(merge([fresh(n), expr]) if n else op.fixed([0])[0] for n, expr in zip(repeats, padded, strict=True))]


def reshape(op: Operation) -> Sequence[Axes]:
    """Neighbouring axes merged and split, in the smallest independent runs."""
    x, shape = op.first, op.shapes[0]
    if "dtype" in op.args and "size" not in op.args:
        raise NotImplementedError("a view as another dtype")
    if 0 in shape:
        return [op.fixed(shape)]
    wide = [expr for expr in x.axes if expr != UNIT]
    parts = iter([part for run, sizes in _runs(wide, shape) for part in _resplit(op, run, sizes)])
    return [tuple(UNIT if size == 1 else next(parts) for size in shape)]


def _runs(wide: Sequence[Expr], shape: Sequence[int]) -> Iterator[tuple[list[Expr], list[int]]]:
    """Old axes beside the new sizes that they fill exactly."""
    old, new = list(wide), [size for size in shape if size != 1]
    while old:
        run, sizes = [old.pop(0)], [new.pop(0)]
        while (have := numel(map(size_of, run))) != (want := numel(sizes)):
            if have < want:
                run.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        yield run, sizes


def _resplit(op: Operation, run: list[Expr], sizes: list[int]) -> list[Expr]:
    if len(run) == len(sizes) == 1:
        return run
    if len(sizes) == 1 and (row := in_a_row(run, op.why)) is not None:
        return [row]
    settle(run, op.why)
    segments = resolve(run[0])
    if len(run) == 1 and len(segments) == len(segments[0]) == 1 and segments[0][0].free:
        return defer(segments[0][0], sizes)
    return split(merge(run), sizes, op.why)


def as_real(op: Operation) -> Sequence[Axes]:
    """A complex number as two real ones on a last axis."""
    return [(*op.first.axes, *op.fixed([2]))]


def as_complex(op: Operation) -> Sequence[Axes]:
    """Two real numbers on the last axis as a complex one."""
    settle(op.first.axes, op.why)
    op.fix(op.first.axes[-1:])
    return [op.first.axes[:-1]]


RULES: dict[str, Rule] = {
    "permute": permute,
    "transpose": transpose,
    "t": matrix_transpose,
    "numpy_T": matrix_transpose,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": repeat,
    "view": reshape,
    "_unsafe_view": reshape,
    "reshape": reshape,
    "_reshape_alias": reshape,
    "_reshape_copy": reshape,
    "view_as_real": as_real,
    "view_as_complex": as_complex,
}

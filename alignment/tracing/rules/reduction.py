"""Sums, means and extrema over axes: blind to the order of what they reduce."""

from collections.abc import Sequence

from alignment.tracing.dims import UNIT, Axes
from alignment.tracing.operation import Operation, Rule, axis_numbers


def reduce_axes(op: Operation) -> Sequence[Axes]:
    """Drops the axes of ``dim``, or keeps them with size 1."""
    x = op.first
    gone = set(axis_numbers(op.args.get("dim"), x.ndim))
    kept = tuple(
        UNIT if axis in gone else expr for axis, expr in enumerate(x.axes) if op.args.get("keepdim") or axis not in gone
    )
    op.mix(
        child=[expr for axis, expr in enumerate(x.axes) if axis not in gone],
        parent=[x.axes[axis] for axis in sorted(gone)],
    )
    return [kept] * len(op.shapes)


def reduce_and_locate(op: Operation) -> Sequence[Axes]:
    """max.dim and its kin also say where; that depends on the order, if anything reads it."""
    if len(op.shapes) > 1 and op.used[1]:
        op.fix([op.first.axes[axis] for axis in axis_numbers(op.args.get("dim"), op.first.ndim)])
    return reduce_axes(op)


def locate(op: Operation) -> Sequence[Axes]:
    """argmax and argmin: positions along the reduced axes."""
    op.fix([op.first.axes[axis] for axis in axis_numbers(op.args.get("dim"), op.first.ndim)])
    return reduce_axes(op)


_PLAIN = ("sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean", "logsumexp", "any", "all")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_PLAIN, reduce_axes),
    **dict.fromkeys(("nansum", "linalg_vector_norm", "norm", "count_nonzero", "aminmax"), reduce_axes),
    **dict.fromkeys(("max", "min", "median", "nanmedian", "mode"), reduce_and_locate),
    **dict.fromkeys(("argmax", "argmin"), locate),
}

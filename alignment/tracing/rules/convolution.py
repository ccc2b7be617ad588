"""Convolutions: dense, grouped, depthwise, transposed, over any number of spatial axes."""

from collections.abc import Sequence

from alignment.tracing.dims import Axes, Expr, fix, fresh, merge
from alignment.tracing.operation import Operand, Operation, Rule

_KERNEL = "position within a convolution kernel"


def convolution(op: Operation) -> Sequence[Axes]:
    """Weights are ``(out, in / groups, *kernel)``, transposed ``(in, out / groups, *kernel)``."""
    x, weight, bias = op.operand("input"), op.operand("weight"), op.optional("bias")
    n_spatial = weight.ndim - 2
    for kernel in weight.axes[2:]:
        fix(kernel, _KERNEL)
    into, out = _transposed(op, weight) if op.args["transposed"] else _ordinary(op, weight)
    op.unify(x.axes[-n_spatial - 1], into)
    if bias is not None:
        op.unify(bias.axes[0], out)
    return [(*x.axes[: -n_spatial - 1], out, *_slide(op, x, weight))]


def _ordinary(op: Operation, weight: Operand) -> tuple[Expr, Expr]:
    if op.args["groups"] == 1:
        return weight.axes[1], weight.axes[0]
    outer = _outer(op, weight)
    return merge([outer, weight.axes[1]]), weight.axes[0]


def _transposed(op: Operation, weight: Operand) -> tuple[Expr, Expr]:
    if op.args["groups"] == 1:
        return weight.axes[0], weight.axes[1]
    return weight.axes[0], merge([_outer(op, weight), weight.axes[1]])


def _outer(op: Operation, weight: Operand) -> Expr:
    """The axis of the groups themselves: the outer part of axis 0 in both layouts."""
    groups = op.args["groups"]
    depthwise = weight.shape[0] == groups or weight.shape[1] == 1
    outer = fresh(groups, hint=None if depthwise else "groups")
    op.unify(weight.axes[0], merge([outer, fresh(weight.shape[0] // groups)]))
    return outer


def _slide(op: Operation, x: Operand, weight: Operand) -> Axes:
    """The spatial axes afterwards: an axis that the convolution only broadcasts over passes through."""
    n_spatial = weight.ndim - 2
    out: list[Expr] = []
    for place in range(n_spatial):
        axis = place - n_spatial
        before, after = x.axes[axis], op.shapes[0][axis]
        still = weight.shape[axis] == 1 and _at(op, "stride", place) == 1 and _at(op, "padding", place) == 0
        if not still:
            op.fix([before])
            before = op.fixed([after])[0]
        out.append(before)
    return tuple(out)


def _at(op: Operation, name: str, place: int) -> int:
    values: Sequence[int] = op.args[name]
    return values[place if len(values) > 1 else 0]


RULES: dict[str, Rule] = {"convolution": convolution, "_convolution": convolution}

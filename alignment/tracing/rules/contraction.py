"""Products that sum over a shared axis: the matrix family."""

from collections.abc import Sequence

from alignment.tracing.dims import Axes
from alignment.tracing.operation import Operand, Operation, Rule, broadcast


def contract(op: Operation, left: Operand, right: Operand) -> Axes:
    """``... k, ... k m -> ... m`` over aligned batch axes; a vector lacks the axis that it cannot have."""
    right_matrix = right.axes if right.ndim > 1 else (*right.axes, None)
    batch, (summed, columns) = right_matrix[:-2], right_matrix[-2:]
    assert summed is not None
    op.unify(left.axes[-1], summed)
    rows = left.axes[len(batch) : -1]
    kept = [*rows] if columns is None else [*rows, columns]
    for own, other in zip(left.axes, batch, strict=False):
        assert other is not None
        op.unify(own, other)
    op.mix(child=[left.axes[-1]], parent=kept)
    return (*left.axes[: len(batch)], *kept)


def _product(left: str, right: str, added: str | None = None) -> Rule:
    def rule(op: Operation) -> Sequence[Axes]:
        axes = contract(op, op.operand(left), op.operand(right))
        if added is not None:
            broadcast(op, [Operand(axes, op.shapes[0]), op.operand(added)])
        return [axes]

    return rule


def linear(op: Operation) -> Sequence[Axes]:
    """``x @ weight.T + bias``, where it is not taken apart."""
    x, weight, bias = op.operand("input"), op.operand("weight"), op.optional("bias")
    op.unify(x.axes[-1], weight.axes[1])
    if bias is not None:
        op.unify(bias.axes[0], weight.axes[0])
    return [(*x.axes[:-1], weight.axes[0])]


def trilinear(op: Operation) -> Sequence[Axes]:
    """The product of three tensors, each expanded by some axes, summed over others (nn.Bilinear)."""
    padded: list[Operand] = []
    for name in ("i1", "i2", "i3"):
        axes, shape = list(op.operand(name).axes), list(op.operand(name).shape)
        for axis in op.args[f"expand{name[1]}"]:
            axes.insert(axis, ((),))
            shape.insert(axis, 1)
        padded.append(Operand(tuple(axes), tuple(shape)))
    whole = broadcast(op, padded)
    summed: set[int] = set(op.args["sumdim"])
    kept = [expr for axis, expr in enumerate(whole) if axis not in summed]
    op.mix(child=[whole[axis] for axis in summed], parent=kept)
    return [tuple(kept)]


RULES: dict[str, Rule] = {
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "vdot": _product("self", "other"),
    "addmm": _product("mat1", "mat2", added="self"),
    "_sparse_addmm": _product("mat1", "mat2", added="self"),
    "addmv": _product("mat", "vec", added="self"),
    "baddbmm": _product("batch1", "batch2", added="self"),
    "linear": linear,
    "_trilinear": trilinear,
}

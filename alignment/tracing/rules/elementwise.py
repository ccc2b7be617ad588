"""Element-wise operations, copies, and operations whose output says nothing of the input's values."""

from collections.abc import Sequence

import torch

from alignment.tracing.dims import Axes, fresh
from alignment.tracing.operation import Operation, Rule, broadcast

# Element-wise, but not tagged so by torch.
_UNTAGGED = {
    *("_prelu_kernel", "masked_fill", "log_sigmoid_forward", "complex", "polar", "rsub", "fill", "copy"),
    *("__and__", "__or__", "__xor__", "hardswish", "_to_copy", "gelu", "sub", "zero", "addcdiv", "float_power"),
    *("detach", "alias", "clone", "lift_fresh", "lift", "contiguous", "real", "imag", "_conj", "resolve_conj"),
    *("pin_memory", "_safe_softmax_mask", "nan_to_num", "logaddexp", "heaviside", "xlogy", "special_xlog1py"),
}


def is_elementwise(name: str) -> bool:
    """Whether the operation ``name``, without an in-place underscore, works element by element."""
    packet = getattr(torch.ops.aten, name, None)
    if name in _UNTAGGED or packet is None:
        return name in _UNTAGGED
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def elementwise(op: Operation) -> Sequence[Axes]:
    """Every output has the broadcast axes of the inputs."""
    return [broadcast(op, op.operands)] * len(op.shapes)


def inert(op: Operation) -> Sequence[Axes]:
    """What draws random numbers in training alone."""
    if op.args.get("training", op.args.get("train")):
        raise NotImplementedError("in training mode")
    return [op.first.axes] * len(op.shapes)


def uniform(op: Operation) -> Sequence[Axes]:
    """zeros_like and its kin: all elements are equal, so any axis may move with anything."""
    return [tuple(fresh(size) for size in shape) for shape in op.shapes]


def positioned(op: Operation) -> Sequence[Axes]:
    """Random numbers: they have positions, and nothing to do with any input's."""
    return [op.fixed(shape) for shape in op.shapes]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like"), uniform),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"), uniform),
    **dict.fromkeys(("rrelu_with_noise", "native_dropout"), inert),
    **dict.fromkeys(("rand_like", "randn_like", "randint_like"), positioned),
    **dict.fromkeys(("rand", "randn", "randint", "randperm", "normal"), positioned),
}

"""The rule of every operation, and what to run in the stead of an operation that has none."""

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import OpOverload

from alignment.tracing.operation import Rule
from alignment.tracing.rules import (
    contraction,
    convolution,
    elementwise,
    indexing,
    normalisation,
    pieces,
    reduction,
    views,
    windows,
)

_RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contraction.RULES,
    **convolution.RULES,
    **normalisation.RULES,
    **reduction.RULES,
    **windows.RULES,
    **views.RULES,
    **pieces.RULES,
    **indexing.RULES,
}

# They move, copy or take apart, and leave open what is pending; see `slots`.
PASSIVE = frozenset(
    ("permute", "transpose", "t", "unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "clone", "_to_copy")
    + ("detach", "alias", "contiguous", "split", "split_with_sizes", "unsafe_split", "slice", "select", "unbind")
)


def name_of(op: OpOverload) -> str:
    """The operation's name in `RULES`: of ATen's without their name space, an in-place one as its twin."""
    name = op.name().removeprefix("aten::").split(".")[0]
    if op._schema.is_mutable and name.endswith("_") and not name.endswith("__"):
        return name[:-1]
    return name


def rule_of(op: OpOverload) -> Rule | None:
    """How the operation ties axes, if that is known."""
    if op.namespace != "aten":
        return None
    name = name_of(op)
    if name in _RULES:
        return _RULES[name]
    return elementwise.elementwise if elementwise.is_elementwise(name) else None


def decomposition(op: OpOverload) -> Callable[..., Any] | None:
    """An equivalent in simpler operations, for an operation without a rule that writes no argument."""
    if op._schema.is_mutable or op.is_view or rule_of(op) is not None:
        return None
    if torch.Tag.data_dependent_output in op.tags or torch.Tag.nondeterministic_seeded in op.tags:
        return None
    found: Callable[..., Any] | None = decomposition_table.get(op)
    return found

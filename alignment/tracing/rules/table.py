"""The rule of every operation, and what to run in the stead of an operation that has none."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import _decomp
from torch._ops import HigherOrderOperator, OpOverload

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
from alignment.tracing.schema import is_mutable, name_of

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

_DECOMPOSITIONS = cast("Mapping[OpOverload, Callable[..., Any]]", _decomp.decomposition_table)

# They move, copy or take apart, and leave open what is pending; see `slots`.
PASSIVE = frozenset(
    {
        *("permute", "transpose", "t", "unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "clone", "_to_copy"),
        *("detach", "alias", "contiguous", "split", "split_with_sizes", "unsafe_split", "slice", "select", "unbind"),
        *("lift_fresh", "stack"),
    }
)


# They write running statistics, which their rule ties to the channels, or noise that nothing reads.
WRITE_ASIDE = frozenset((*normalisation.BATCH_NORMS, "rrelu_with_noise"))


def rule_of(op: OpOverload | HigherOrderOperator) -> Rule | None:
    """How the operation ties axes, if that is known."""
    if op.namespace != "aten":
        return None
    name = name_of(op)
    if name in _RULES:
        return _RULES[name]
    return elementwise.elementwise if elementwise.is_elementwise(name) else None


def decomposition(op: OpOverload) -> Callable[..., Any] | None:
    """An equivalent in simpler operations, for an operation without a rule; it may return NotImplemented."""
    if rule_of(op) is not None or torch.Tag.nondeterministic_seeded in op.tags:
        return None
    # The table's equivalents copy where the operation would write or view.
    return op.decompose if is_mutable(op) or op.is_view else _DECOMPOSITIONS.get(op, op.decompose)

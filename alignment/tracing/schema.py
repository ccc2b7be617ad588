"""What an ATen operation says of itself: its name, its arguments, what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch._C import FunctionSchema
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils import _pytree as pytree

from alignment.tracing.recording import Value


def label_of(op: OpOverload | HigherOrderOperator) -> str:
    """The name that an operator reads: ``relu_``, ``mylib::fused``."""
    name = cast(str, op.name())
    return name.removeprefix("aten::").split(".")[0]


def name_of(op: OpOverload | HigherOrderOperator) -> str:
    """The name under which rules know it: an in-place operation goes by its functional twin's."""
    name = label_of(op)
    return name[:-1] if is_mutable(op) and name.endswith("_") and not name.endswith("__") else name


def is_mutable(op: OpOverload | HigherOrderOperator) -> bool:
    """Whether it writes one of its arguments."""
    return isinstance(op, OpOverload) and _schema(op).is_mutable


def arguments_of(op: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, with defaults."""
    arguments = _schema(op).arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return {**defaults, **dict(zip((argument.name for argument in arguments), args, strict=False)), **kwargs}


def written_by(op: OpOverload, args: Mapping[str, Any]) -> Iterator[Value]:
    """The arguments that it writes."""
    for argument in _schema(op).arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (leaf for leaf in pytree.tree_leaves(args.get(argument.name)) if isinstance(leaf, Value))


def _schema(op: OpOverload) -> FunctionSchema:
    return op._schema  # pyright: ignore[reportPrivateUsage]  # there is no public way to it

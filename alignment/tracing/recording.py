"""What one run of a network did, as plain data: values, the operations between them, the module calls around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils import _pytree as pytree

from alignment.tracing.dims import Axes


@dataclass(eq=False)
class Value:
    """A tensor of the run.

    uniform   per axis, whether all its slices are equal; known of constants only
    constant  made from nothing but Python numbers
    storage   the memory that it, and every view of it, lies in
    axes      what the derivation knows of it
    """

    shape: tuple[int, ...]
    dtype: str
    storage: int
    constant: bool = False
    uniform: tuple[bool, ...] = ()
    axes: Axes | None = None


@dataclass(eq=False)
class Frame:
    """One call of a module. ``reads`` names the operations that handed data over to Python within it."""

    module: nn.Module
    name: str
    inputs: list[Value] = field(default_factory=list[Value])
    outputs: list[Value] = field(default_factory=list[Value])
    reads: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, eq=False)
class Call:
    """One operation: its arguments by name, with a `Value` for every tensor.

    constant  whether nothing but constants went in
    views     whether an output shares memory with an input
    frames    the module calls that it happened in, outermost first
    """

    op: OpOverload | HigherOrderOperator
    args: Mapping[str, Any]
    inputs: tuple[Value, ...]
    written: tuple[Value, ...]
    outputs: tuple[Value, ...]
    frames: tuple[Frame, ...]
    constant: bool
    views: bool


@dataclass
class Recording:
    """A run.

    state        by the key of the state dict; ``owned`` the same by the id of the tensor
    captured     what came from neither the state dict nor the inputs
    told         what was turned into Python data without an operation
    aside        what modules keep as attributes
    overlapping  what shares memory in a way that no operation shows
    sparse       what the state dict holds in another layout than strided, which no permutation can move
    written      memory that some operation wrote
    """

    state: dict[str, Value]
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list[Value])
    captured: list[Value] = field(default_factory=list[Value])
    told: list[Value] = field(default_factory=list[Value])
    aside: list[Value] = field(default_factory=list[Value])
    calls: list[Call] = field(default_factory=list[Call])
    frames: list[Frame] = field(default_factory=list[Frame])
    overlapping: list[Value] = field(default_factory=list[Value])
    sparse: list[Value] = field(default_factory=list[Value])
    written: set[int] = field(default_factory=set[int])
    owned: dict[int, Value] = field(default_factory=dict[int, Value])

    def live_calls(self, barred: Set[Frame]) -> list[Call]:
        """The calls that the outputs depend on, that write or tell Python something, or that lie in ``barred``."""
        wanted, live = {*self.outputs, *self.told}, list[Call]()
        for call in reversed(self.calls):
            kept = call.written or not call.outputs or not barred.isdisjoint(call.frames)
            if kept or not wanted.isdisjoint(call.outputs):
                live.append(call)
                wanted.update(call.inputs)
        return live[::-1]

    def that_follow(self, sources: Set[Value]) -> set[Value]:
        """What was computed with ``sources``, or with what follows from them."""
        followed = set(sources)
        for call in self.calls:
            if not followed.isdisjoint(call.inputs):
                followed.update(call.outputs)
        return followed - sources


def uniform_axes(tensor: Tensor) -> tuple[bool, ...]:
    """Per axis, whether all slices of ``tensor`` along it are equal."""
    if tensor.layout != torch.strided:
        return (False,) * tensor.ndim
    return tuple(
        size < 2 or bool((tensor == tensor.narrow(axis, 0, 1)).all()) for axis, size in enumerate(tensor.shape)
    )


def tensors_in(tree: object) -> list[Tensor]:
    """All tensors in nested containers and plain objects, in order."""
    return [leaf for leaf in leaves_of(tree, set()) if isinstance(leaf, Tensor)]


def leaves_of(tree: object, seen: set[int]) -> Iterator[object]:
    """What containers and plain objects hold, each object entered once."""
    for leaf in pytree.tree_leaves(tree):
        held = getattr(leaf, "__dict__", None)
        if isinstance(leaf, Tensor | nn.Module) or not held or callable(leaf):
            yield leaf
        elif id(leaf) not in seen:
            seen.add(id(leaf))
            yield from leaves_of(dict(held), seen)

"""What one run of a network did, as plain data: values, the operations between them, and the module calls around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
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

    op: OpOverload
    args: Mapping[str, Any]
    inputs: tuple[Value, ...]
    written: tuple[Value, ...]
    outputs: tuple[Value, ...]
    frames: tuple[Frame, ...]
    constant: bool
    views: bool


@dataclass
class Recording:
    """A run: ``state`` by the key of the state dict, ``captured`` what came from neither it nor the inputs."""

    state: dict[str, Value]
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list[Value])
    captured: list[Value] = field(default_factory=list[Value])
    calls: list[Call] = field(default_factory=list[Call])
    frames: list[Frame] = field(default_factory=list[Frame])
    tied: list[tuple[Value, Value]] = field(default_factory=list[tuple[Value, Value]])
    overlapping: list[Value] = field(default_factory=list[Value])
    written: set[int] = field(default_factory=set[int])
    owned: dict[int, Value] = field(default_factory=dict[int, Value])
    used: set[Value] = field(default_factory=set[Value])


def uniform_axes(tensor: Tensor) -> tuple[bool, ...]:
    """Per axis, whether all slices of ``tensor`` along it are equal."""
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

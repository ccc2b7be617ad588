"""A place to run a network with other weights, leaving the network itself as it was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from alignment.batches import copy_of
from alignment.precision import is_continuous
from alignment.spec import State
from alignment.tracing.recording import tensors_in
from alignment.tracing.switches import in_mode, plain_operations

WIDE = (torch.float64, torch.complex128)
NARROW_COMPLEX = (torch.complex32, torch.complex64)


@dataclass(frozen=True)
class Bench:
    """A network, evaluated on ``inputs`` in ``dtype``."""

    model: nn.Module
    inputs: tuple[Any, ...]
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """The greatest rounding difference, relative to the greatest output."""
        return 1e-9 if self.dtype == torch.float64 else 1e-4

    def state(self) -> dict[str, Tensor]:
        """A copy of the tensors of the state dict."""
        tensors = self.model.state_dict().items()
        return {key: tensor.clone() for key, tensor in tensors if isinstance(tensor, Tensor)}

    def load(self, state: State) -> None:
        """Writes ``state`` into the network."""
        # With what is no tensor, which quantised layers need to load at all.
        whole = self.model.state_dict()
        whole.update(state)
        self.model.load_state_dict(whole, strict=False)

    def outputs(self, inputs: Sequence[Any]) -> list[Tensor]:
        """All output tensors on a copy of ``inputs``; random numbers are drawn from one seed."""
        with seeded(self.model):
            return tensors_in(self.model(*_converted(inputs, self.dtype)))


@contextmanager
def seeded(model: nn.Module) -> Generator[None]:
    """Draws random numbers from one seed, and leaves the generators of torch as they were."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


@contextmanager
def bench(model: nn.Module, inputs: Sequence[Any]) -> Generator[Bench]:
    """A `Bench` in fp64 on a copy of ``model`` where both are possible, in evaluation mode.

    A network that cannot be copied is used itself and gets its weights back. One that computes in fixed dtypes, wholly
    or in part, runs in its own, half precision in fp32. Raises what the network raises on ``inputs``.
    """
    with plain_operations():
        double = _double(model, inputs)
        if double is not None:
            yield double
            return
        with _own_precision(model, inputs) as own:
            own.outputs(own.inputs)
            yield own


def in_precision_of(model: nn.Module) -> torch.dtype:
    """The dtype to run ``model`` in: its own, fp32 for half precision."""
    floating = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    return torch.float64 if floating == {torch.float64} else torch.float32


@contextmanager
def own_precision(model: nn.Module, inputs: Sequence[Any]) -> Generator[Bench]:
    """A `Bench` in the precision of ``model``, on a copy where that is possible."""
    with plain_operations(), _own_precision(model, inputs) as own:
        yield own


@contextmanager
def _own_precision(model: nn.Module, inputs: Sequence[Any]) -> Generator[Bench]:
    dtype = in_precision_of(model)
    if (twin := _copy(model)) is not None:
        # Not `to`, which takes the imaginary part from what is complex.
        twin = twin.double() if dtype == torch.float64 else twin.float()
        yield Bench(twin.eval(), _converted(inputs, dtype), dtype)
        return
    borrowed = Bench(model, _converted(inputs, dtype), dtype)
    before = borrowed.state()
    with in_mode(model, training=False):
        try:
            yield borrowed
        finally:
            borrowed.load(before)


def _double(model: nn.Module, inputs: Sequence[Any]) -> Bench | None:
    twin = _copy(model)
    if twin is None:
        return None
    double = Bench(twin.double().eval(), _converted(inputs, torch.float64), torch.float64)
    try:
        with _Narrowing() as narrowing:
            double.outputs(double.inputs)
    except Exception:  # whatever stops it, the network's own precision is next
        return None
    return None if narrowing.found else double


class _Narrowing(TorchDispatchMode):
    """Whether some operation rounds to less than fp64: what follows from it is no better than that."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        into, out = tensors_in((args, kwargs)), tensors_in(made)
        rounds = any(t.dtype in WIDE for t in into) and any(is_continuous(t) and t.dtype not in WIDE for t in out)
        # Parameters of complex64 stay what they are.
        self.found |= rounds or any(t.dtype in NARROW_COMPLEX for t in out)
        return made


def _copy(model: nn.Module) -> nn.Module | None:
    try:
        return copy_of(model)
    except Exception:  # modules refuse to be copied in ways of their own
        return None


def _converted(inputs: Sequence[Any], dtype: torch.dtype) -> tuple[Any, ...]:
    def convert(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    converted: tuple[Any, ...] = pytree.tree_map_only(Tensor, convert, tuple(inputs))
    return converted

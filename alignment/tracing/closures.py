"""What a Python function can reach besides its arguments."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

_NUMBERS = (bool, int, float, complex, str, type(None))


def tensors_held_by(function: Callable[..., Any]) -> list[Tensor] | None:
    """The tensors that ``function`` closes over; None where it reaches more than tensors, numbers and libraries."""
    if not isinstance(function, FunctionType):
        return None
    names = inspect.getclosurevars(function)
    reached = [*names.nonlocals.values(), *names.globals.values(), *(function.__defaults__ or ())]
    held: list[Tensor] = []
    for each in reached:
        if isinstance(each, Tensor):
            held.append(each)
        elif isinstance(each, FunctionType) and not _is_of_torch(each):
            within = tensors_held_by(each)
            if within is None:
                return None
            held += within
        elif not (isinstance(each, (*_NUMBERS, ModuleType)) or _is_of_torch(each) or each in vars(builtins).values()):
            return None
    return held


def _is_of_torch(each: object) -> bool:
    return str(getattr(each, "__module__", "")).split(".")[0] == "torch"

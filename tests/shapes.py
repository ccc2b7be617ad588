"""Types and shapes of a package checked at every call, as jaxtyping's import hook does, at a small part of its cost.

The hook's own decorator binds the arguments of every function at every call, and writes and compiles what checks a
function inside a function whenever that is defined: most of the time of the tests that derive specs. It is needed only
where a shape is named; what names none is checked by beartype alone, and a function inside another, which names none
here, by the types of those around it.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from types import FunctionType, SimpleNamespace
from typing import Any, cast, get_args, get_type_hints

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

_jaxtyped: Any = vars(jaxtyping)["jaxtyped"]


def check_shapes(package: str) -> None:
    """From now on, modules of ``package`` are checked from when they are imported."""
    # The decorator that the hook writes above each function and class is looked up under this name.
    jaxtyping.jaxtyped = _checking
    install_import_hook(package, "beartype.beartype")


def shaped(function: FunctionType) -> bool:
    """Whether an annotation of ``function`` names a shape."""
    return any(map(_is_shaped, _hints(function).values()))


def _checking(*, typechecker: Any) -> Callable[[Any], Any]:
    return _checked


def _checked(what: Any) -> Any:
    if is_dataclass(what) and isinstance(what, type):
        what.__init__ = _checked(what.__init__)
    if not inspect.isfunction(what) or "<locals>" in what.__qualname__:
        return what
    if shaped(what):
        return _jaxtyped(what, typechecker=beartype)
    what.__annotations__ = _hints(what)
    return beartype(what)


def _hints(function: FunctionType) -> dict[str, Any]:
    return {name: _resolved(hint, function.__globals__) for name, hint in function.__annotations__.items()}


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The annotation as a type; anything, where it is imported for pyright alone."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": hint}), names, include_extras=True)["it"]
    except NameError:
        return Any


def _is_shaped(hint: Any) -> bool:
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(_is_shaped, cast(list[Any], hint)))
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_is_shaped, get_args(hint)))

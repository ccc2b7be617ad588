"""Functions of the user's own, named ``module:function``: what builds a network, reads data or makes examples."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from models.errors import ModelError


def import_function(name: str, what: str = "model") -> Callable[..., object]:
    """The function that ``module:function`` names, given as the setting or option ``what``.

    Raises `ModelError` that says what was looked for and where, when the module or the function is missing;
    errors that the module itself raises while it is imported pass through.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ModelError(f"{what} {name!r}: expected module:function")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ModelError(
            f"{what} {name!r}: no module {error.name!r} on Python's path; the current folder is {Path.cwd()}"
        ) from error
    function: object = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"{what} {name!r}: no function {function_name!r} in {getattr(module, '__file__', module)}")
    return function


def import_beside(name: str, ending: str) -> Callable[..., object] | None:
    """The function whose name is that of ``module:function`` with ``ending`` after it, if there is one.

    Raises what `import_function` raises of ``name`` itself.
    """
    import_function(name)
    module_name, _, function_name = name.partition(":")
    found: object = getattr(import_module(module_name), function_name + ending, None)
    return found if callable(found) else None

"""What the tests check in `alignment` at every call: types, and the shapes of arguments against each other."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

import alignment
from alignment.assignment import assign
from alignment.barrier import LossSums
from alignment.solving import solve
from alignment.tracing.dims import fresh
from tests.shapes import shaped


def functions() -> Iterator[Callable[..., Any]]:
    """All that the imported modules define outside of functions."""
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "alignment"}
    for name, module in modules.items():
        classes = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == name]
        for scope in (module, *classes):
            found = (getattr(each, "__func__", each) for each in vars(scope).values())
            yield from (each for each in found if inspect.isfunction(each) and each.__module__ == name)


def makers(function: Callable[..., Any]) -> list[str]:
    """The files of the function and of all that it wraps."""
    chain = [function]
    while hasattr(chain[-1], "__wrapped__"):
        chain.append(cast(Any, chain[-1]).__wrapped__)
    return [cast(FunctionType, each).__code__.co_filename for each in chain]


def test_sizes_of_one_name_that_differ_between_arguments_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="incumbent"):
        assign(torch.eye(3), torch.arange(2))


def test_an_argument_of_another_type_is_refused_where_no_shape_is_named() -> None:
    with pytest.raises(BeartypeCallHintParamViolation):
        fresh(cast(int, "two"))


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(BeartypeCallHintParamViolation):
        LossSums(cast(int, "ten"), 1.0, 1.0)


def test_every_function_that_names_a_shape_has_it_checked() -> None:
    named = [each for each in functions() if shaped(inspect.unwrap(each))]
    assert {assign.__name__, solve.__name__} <= {each.__name__ for each in named}
    assert all(any("jaxtyping" in maker for maker in makers(each)) for each in named)


def test_no_function_inside_another_names_a_shape() -> None:
    """Those are not checked."""
    trees = [ast.parse(path.read_text()) for path in Path(alignment.__file__).parent.rglob("*.py")]
    inner = [each for tree in trees for outer in functions_in(tree) for each in functions_in(outer)]
    words = [word for each in inner for hint in (each.args, each.returns) if hint for word in ast.walk(hint)]
    assert inner
    assert not [word for word in words if isinstance(word, ast.Name) and word.id.startswith(("Float", "Int"))]


def functions_in(tree: ast.AST) -> list[ast.FunctionDef]:
    """The functions that are defined somewhere inside."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node is not tree]

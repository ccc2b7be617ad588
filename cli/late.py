"""Commands whose modules are imported when they are called: with torch that takes seconds, and hundreds of megabytes.

What the help of a group shows of them is read from their sources.
"""

import ast
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import typer
from typer.core import TyperCommand, TyperGroup

from cli.entry import ending_at_once


class Late(TyperCommand):
    """The command ``name``, a function of that name in ``module``, by default ``cli.NAME``."""

    def __init__(self, name: str, module: str = "", *, no_args_is_help: bool = False) -> None:
        self.module = module or f"cli.{name}"
        super().__init__(name, help=_docstring(self.module, name), no_args_is_help=no_args_is_help)

    @cached_property
    def imported(self) -> click.Command:
        """The command itself."""
        app = typer.Typer(add_completion=False)
        with ending_at_once():
            function = getattr(import_module(self.module), str(self.name))
        app.command(self.name, no_args_is_help=self.no_args_is_help)(function)
        return typer.main.get_command(app)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """A context of the command itself: what it is asked, it answers."""
        return self.imported.make_context(info_name, args, parent, **extra)


def group_with(*late: Late) -> type[TyperGroup]:
    """For ``typer.Typer(cls=...)``: a group that has ``late`` too, after its own commands and before its groups."""

    class Group(TyperGroup):
        def __init__(self, *, commands: dict[str, click.Command], **attributes: Any) -> None:
            every = {**commands, **{str(each.name): each for each in late}}
            ordered = sorted(every.items(), key=lambda item: isinstance(item[1], click.Group))
            super().__init__(commands=dict(ordered), **attributes)
            # From 8.4 on, click tells of a misspelt command what was meant, and typer would say it once more.
            self.suggest_commands = not hasattr(click.exceptions, "NoSuchCommand")

    return Group


def _docstring(module: str, function: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    return next(
        ast.get_docstring(node) or "" for node in body if isinstance(node, ast.FunctionDef) and node.name == function
    )

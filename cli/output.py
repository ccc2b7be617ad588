"""What commands print: a table for people, one JSON document for scripts."""

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from enum import StrEnum
from math import isfinite
from typing import Annotated, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

people = Console()
progress = Console(stderr=True)
_answers = ContextVar[TextIO | None]("answers", default=None)


def warn(text: str) -> None:
    """Says on standard error what must not be overlooked."""
    progress.print(f"warning: {text}", style="bold yellow", highlight=False, soft_wrap=True, markup=False)


class Format(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


def answer_alone(context: typer.Context, answer: Format) -> Format:
    """Itself. As JSON it has standard output to itself until the command ends: what else is printed there, by a module
    of the user's or by a site's code, goes to standard error.
    """
    if answer is Format.JSON:
        context.with_resource(_diverted())
    return answer


Output = Annotated[
    Format,
    typer.Option("--format", help="A table for people, or one JSON document for scripts.", callback=answer_alone),
]


@contextmanager
def _diverted() -> Generator[None]:
    before = _answers.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.reset(before)


def print_json(document: object) -> None:
    """One JSON document, alone on standard output. JSON knows no numbers that are not finite: they are null."""
    lost: list[str] = []
    text = json.dumps(_finite(document, "", lost), indent=1, ensure_ascii=False, allow_nan=False)
    print(text, file=_answers.get() or sys.stdout)
    if lost:
        others = f", and {len(lost) - 1} more are not finite" if len(lost) > 1 else ""
        warn(f"{lost[0]}{others}: null in the answer, since JSON has no such numbers")


def as_clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _finite(value: object, place: str, lost: list[str]) -> object:
    """``value`` with None for what is not finite, whose places are added to ``lost``."""
    if isinstance(value, Mapping):
        items = cast(Mapping[str, object], value).items()
        return {key: _finite(each, f"{place}.{key}" if place else key, lost) for key, each in items}
    if isinstance(value, list | tuple):
        several = cast(Sequence[object], value)
        return [_finite(each, f"{place}[{number}]", lost) for number, each in enumerate(several)]
    if isinstance(value, float) and not isfinite(value):
        lost.append(f"{place} is {value}")
        return None
    return value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> None:
    """A table whose first column is text, as are those in ``texts``, and whose others are numbers."""
    # Not the table's own title, which wraps where a narrow table ends.
    people.print(escape(title), style="table.title", highlight=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        is_number = number and column not in texts
        # Folded: of a fingerprint or a path, what a narrow terminal would cut off is what someone compares.
        justify = "right" if is_number else "left"
        table.add_column(escape(column), justify=justify, no_wrap=not number, overflow="fold" if number else "ellipsis")
    for row in rows:
        table.add_row(*map(escape, row))
    people.print(table)

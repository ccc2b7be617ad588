"""What commands print: a table for people, one JSON document for scripts."""

import json
from collections.abc import Sequence
from enum import StrEnum

from rich.console import Console
from rich.markup import escape
from rich.table import Table

people = Console()
progress = Console(stderr=True)


def warn(text: str) -> None:
    """Says on standard error what must not be overlooked."""
    progress.print(f"warning: {text}", style="bold yellow", highlight=False, soft_wrap=True, markup=False)


class Format(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


def print_json(document: object) -> None:
    """One JSON document, alone on standard output."""
    print(json.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> None:
    """A table whose first column is text, as are those in ``texts``, and whose others are numbers."""
    # Not the table's own title, which wraps where a narrow table ends.
    people.print(escape(title), style="table.title", highlight=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        is_number = number and column not in texts
        table.add_column(escape(column), justify="right" if is_number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*map(escape, row))
    people.print(table)

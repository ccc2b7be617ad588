"""What commands print: a table for people, one JSON document for scripts."""

import json
from collections.abc import Sequence
from enum import StrEnum

from rich.console import Console
from rich.table import Table

people = Console()
progress = Console(stderr=True)


class Format(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


def print_json(document: object) -> None:
    """One JSON document, alone on standard output."""
    print(json.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    people.print(table)

"""The records of a round as tables in Markdown."""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from server.records import Record, RoundRecord

WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def records_tables() -> str:
    """`RoundRecord` and all that it holds, each with a heading of its own."""
    found = dict.fromkeys(_held(RoundRecord))
    return "\n\n".join(f"## {record.__name__}\n\n{_said(record.__doc__)}\n\n{_table(record)}" for record in found)


def _held(record: type[Record]) -> Iterator[type[Record]]:
    """``record``, and the records that its fields hold, at any depth."""
    yield record
    for field in record.model_fields.values():
        for inner in _types(field.annotation):
            if issubclass(inner, Record):
                yield from _held(inner)


def _types(annotation: Any) -> Iterator[type]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for each in inner:
        yield from _types(each)


def _table(record: type[Record]) -> str:
    rows = ["| field | type | what it says |", "| --- | --- | --- |"]
    for name, field in record.model_fields.items():
        rows.append(f"| `{name}` | {_words(field.annotation)} | {_said(field.description)} |")
    return "\n".join(rows)


def _words(annotation: Any) -> str:
    """The type in words, with a link to a record."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return f"object of {_words(inner[1])}s"
    if origin is list:
        return f"list of {_words(inner[0])}s"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    return WORDS.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _said(text: str | None) -> str:
    return " ".join((text or "").split())

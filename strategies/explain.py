"""What pydantic finds wrong with settings, in the words of those who write them."""

from collections.abc import Mapping
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

type_names = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
}


def problems(error: ValidationError, model: type[BaseModel], patterns: Mapping[str, str] | None = None) -> list[str]:
    """A line for each wrong setting: which, what was expected, what came; of an unknown one, the nearest known.

    ``patterns`` are regular expressions of ``model`` in words.
    """
    keys = [str(field.alias) for field in model.model_fields.values()]
    return [
        f"setting {str(e['loc'][0])!r}{_said(str(e['loc'][0]), e['type'], e['msg'], e['input'], keys, patterns or {})}"
        for e in error.errors()
        # What follows from others is not asked once one of these is wrong.
        if e["type"] != "default_factory_not_called"
    ]


def _said(key: str, kind: str, message: str, got: object, keys: list[str], patterns: Mapping[str, str]) -> str:
    if kind == "extra_forbidden":
        near = get_close_matches(key, keys, n=1)
        return ": there is no such setting" + (f"; the nearest is {near[0]!r}" if near else "")
    if kind == "missing":
        return " is missing"
    pattern = message.partition("match pattern ")[2].strip("'")
    words = message.removeprefix("Input should be ").removeprefix("Value error, ")
    expected = patterns.get(pattern) or type_names.get(kind, words)
    return f": expected {expected}, got {got!r} ({type(got).__name__})"

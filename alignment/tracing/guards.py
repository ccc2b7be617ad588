"""Reads of data that can do nothing but raise: ``assert x.isfinite().all()``, ``if x.min() < 0: raise …``.

Such a read hides no branch: where it would come out otherwise, the network gives no outputs at all. We tell one by the
place in the source where it happens: in the condition of an ``assert``, or of an ``if`` with nothing but a ``raise``.
Where the source is not at hand, or something around could catch the error, it is a read like any other.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType

# Between an operation and the code that asked for it: our own, torch's dispatch, and what checks the shapes of ours.
_MACHINERY = ("alignment.tracing.", "jaxtyping.", "torch.overrides", "torch.utils._python_dispatch", "torch._ops")
_WRAPPERS = ("torch._compile", "torch._dynamo.eval_frame")
# Python catches these itself, to end a loop or to look elsewhere.
_SIGNALS = ("Stop", "GeneratorExit", "IndexError", "KeyError", "LookupError", "AttributeError")
# What becomes of a value in a condition without being kept.
_OPERATORS = (ast.BoolOp, ast.UnaryOp, ast.Compare, ast.BinOp)
_FUNCTIONS = frozenset(("bool", "int", "float", "abs", "any", "all", "len", "min", "max"))

Span = tuple[int, int, int, int]
"""First line, first column, last line, last column."""


def only_raises() -> bool:
    """Whether what is being read right now can only decide whether an error is raised that nothing catches."""
    frames = [frame for frame in _frames(inspect.currentframe()) if not _is_machinery(frame)]
    if not frames or not _is_condition(frames[0]):
        return False
    # What torch itself catches on the way, it raises again.
    return not any(_is_caught(frame) for frame in frames if not _module_of(frame).startswith("torch."))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The Python calls under way inside the network, innermost first."""
    while frame is not None and not (frame.f_code.co_name == "record" and _is_machinery(frame)):
        yield frame
        frame = frame.f_back


def _is_machinery(frame: FrameType) -> bool:
    return _module_of(frame).startswith((*_MACHINERY, *_WRAPPERS))


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_condition(frame: FrameType) -> bool:
    span = _span(frame)
    return span is not None and any(
        _is_consumed(test, span) or span == _span_of(statement)
        for statement in _nodes(frame.f_code.co_filename) or ()
        if (test := _guarding(statement)) is not None and _holds(_span_of(statement), span)
    )


def _guarding(node: ast.stmt) -> ast.expr | None:
    """The condition of a statement that can only raise, unless it keeps something."""
    raises = isinstance(node, ast.If) and not node.orelse and all(map(_is_error, node.body))
    if not isinstance(node, ast.Assert) and not (isinstance(node, ast.If) and raises):
        return None
    return None if any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node.test)) else node.test


def _is_error(node: ast.stmt) -> bool:
    return isinstance(node, ast.Raise) and not ast.unparse(node).removeprefix("raise ").startswith(_SIGNALS)


def _is_consumed(node: ast.expr, span: Span) -> bool:
    """Whether ``span`` lies in ``node``, and nothing on the way up from there could keep the value."""
    while _span_of(node) != span:
        if not _holds(_span_of(node), span):
            return False
        if not isinstance(node, _OPERATORS) and not _is_plain_call(node):
            return False
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr) and _holds(_span_of(n), span)]
        if not inner:
            # The operator itself asks: ``not x``, ``a and b``.
            return isinstance(node, _OPERATORS)
        node = inner[0]
    return True


def _is_plain_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS


def _is_caught(frame: FrameType) -> bool:
    span = _span(frame)
    return span is None or any(
        any(_holds(_span_of(inner), span) for inner in node.body)
        for node in _nodes(frame.f_code.co_filename) or ()
        if isinstance(node, ast.Try | ast.TryStar | ast.With | ast.AsyncWith) and not _is_transparent(node)
    )


def _is_transparent(node: ast.Try | ast.TryStar | ast.With | ast.AsyncWith) -> bool:
    """Whether errors pass through it: a ``finally`` alone, or contexts of torch's own."""
    if isinstance(node, ast.Try | ast.TryStar):
        return not node.handlers and not any(
            isinstance(n, ast.Return) for done in node.finalbody for n in ast.walk(done)
        )
    return all(ast.unparse(item.context_expr).startswith("torch.") for item in node.items)


def _span(frame: FrameType) -> Span | None:
    """Where in its source a frame is, if it is known and can be read."""
    if _nodes(frame.f_code.co_filename) is None:
        return None
    return _positions(frame.f_code, frame.f_lasti // 2)


def _positions(code: CodeType, instruction: int) -> Span | None:
    line, last, column, end = next(islice(code.co_positions(), instruction, None))
    if line is None or last is None or column is None or end is None:
        return None
    return line, column, last, end


def _span_of(node: ast.expr | ast.stmt) -> Span:
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0


def _holds(outer: Span, inner: Span) -> bool:
    return outer[:2] <= inner[:2] and inner[2:] <= outer[2:]


def _nodes(file: str) -> tuple[ast.stmt, ...] | None:
    """The statements in ``file`` that could matter; None where its source is not at hand."""
    source = "".join(linecache.getlines(file))
    return _parsed(source) if source else None


@lru_cache(maxsize=64)
def _parsed(source: str) -> tuple[ast.stmt, ...] | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    kinds = (ast.Assert, ast.If, ast.Try, ast.TryStar, ast.With, ast.AsyncWith)
    return tuple(node for node in ast.walk(tree) if isinstance(node, kinds))

"""What a panel is, and how a query names a metric of the catalogue."""

import re
from dataclasses import dataclass
from typing import Literal

from server.metrics import FEDERATION, Metric

Kind = Literal["stat", "timeseries", "bargauge", "table", "alertlist"]
JOB_AND_INSTANCE = 'job=~"$job", instance=~"$instance"'
BAD, SO_SO, GOOD = "red", "orange", "green"
Steps = tuple[tuple[float | None, str], ...]
# At exactly 0 nothing was won: of accuracies, which are counts over counts, the least gain is far above 1e-6.
NEGATIVE_IS_BAD: Steps = ((None, BAD), (0.0, SO_SO), (1e-6, GOOD))
SOME_ARE_BAD: Steps = ((None, GOOD), (1.0, BAD))
NEUTRAL: Steps = ((None, "blue"),)


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are called; ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel, of ``width`` 24ths. ``steps`` are colours from a value on.

    names_only  shows legends without their values, which are 1
    texts       for a value, what is shown in its place, and its colour
    empty       what is shown where there is no value
    key         of a table, the label that its rows are of; its columns are the legends, of which some have ``units``
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = NEUTRAL
    decimals: int | None = None
    names_only: bool = False
    texts: tuple[tuple[int, str, str], ...] = ()
    empty: str = ""
    key: str = ""
    units: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """A question of the operator's, and the panels that answer it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    sections: tuple[Section, ...]


def of(metric: Metric, *matchers: str, part: str = "") -> str:
    """The series of ``metric`` that the variables on top select; ``matchers`` are as ``stage=naive``.

    ``part`` is a histogram's, such as ``_sum``.
    """
    assert (metric.kind == "histogram") == bool(part)
    assert all(re.split("!?=", matcher)[0] in metric.labels for matcher in matchers)
    chosen = [JOB_AND_INSTANCE, *(['federation="$federation"'] if FEDERATION in metric.labels else [])]
    chosen += [re.sub("=(.*)", r'="\1"', matcher) for matcher in matchers]
    return f"{metric.name}{part}{{{', '.join(chosen)}}}"


def rises(metric: Metric, *matchers: str, part: str = "") -> str:
    """How much a counter rose over the time that is shown."""
    return f"increase({of(metric, *matchers, part=part)}[$__range])"


def one(metric: Metric, legend: str, *matchers: str) -> tuple[Query, ...]:
    """A metric as it is."""
    return (Query(of(metric, *matchers), legend),)

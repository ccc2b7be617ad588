"""The axes of a spec in their shortest form."""

from itertools import groupby
from math import prod

from alignment.spec import Axis, Factor, Segment


def shortest(segments: list[Segment]) -> Axis:
    """An axis in its shortest form: fixed neighbours joined, equal neighbours counted."""
    short = [_shorten(segment) for segment in segments]
    joined: list[Segment] = []
    for still, run in groupby(short, key=lambda segment: all(factor.group is None for factor in segment)):
        together = list(run)
        joined += [(Factor(sum(map(_size, together))),)] if still else _counted(together)
    return tuple(joined)


def _counted(segments: list[Segment]) -> list[Segment]:
    counted: list[Segment] = []
    for segment, run in groupby(segments):
        times = len(list(run))
        counted.append(_shorten((Factor(times), *segment)) if times > 1 else segment)
    return counted


def _shorten(segment: Segment) -> Segment:
    """Neighbouring fixed factors as one; none of size 1 but the last one left."""
    short: list[Factor] = []
    for factor in segment:
        if factor.group is None and short and short[-1].group is None:
            short[-1] = Factor(short[-1].size * factor.size)
        else:
            short.append(factor)
    return tuple(short) or (Factor(1),)


def _size(segment: Segment) -> int:
    return prod(factor.size for factor in segment)

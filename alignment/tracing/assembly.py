"""From the derivation to a `PermutationSpec`: names, factors, reasons."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from alignment.spec import Axis, Factor, PermutationSpec
from alignment.tracing.derivation import Derivation
from alignment.tracing.dims import Dim, Expr, Product, resolve
from alignment.tracing.factors import shortest
from alignment.tracing.families import family_parents
from alignment.tracing.layout import INTERLEAVED, free_dims, segments_of, spread_interleaved
from alignment.tracing.recording import Value
from alignment.unread import UNREAD

ONLY_IN_TRAINING = "only training reads it"

# What a parameter adds to the path of the module that owns it.
_WEIGHT = re.compile(r"_?(weight|bias)(_ih|_hh)?(_|$)")


def assemble(derivation: Derivation, buffers: frozenset[str]) -> PermutationSpec:
    """The spec that the derivation amounts to, not proved yet."""
    state = {key: value for key, value in derivation.recording.state.items() if value.shape}
    spread_interleaved(state.values())
    dims = free_dims(expr for value in state.values() for expr in value.axes or ())
    parents = family_parents(derivation, dims)
    names = _names(state, parents)
    axes = {key: tuple(_axis(expr, names) for expr in value.axes or ()) for key, value in state.items()}
    return PermutationSpec(
        groups={names[dim]: dim.size for dim in dims},
        axes=axes,
        parents={names[dim]: names[parent] for dim, parent in parents.items()},
        buffers=buffers & frozenset(derivation.recording.state),
        fixed=_reasons(state, derivation.read_in_training),
    )


def _axis(expr: Expr, names: Mapping[Dim, str]) -> Axis:
    return shortest([tuple(Factor(dim.size, names.get(dim)) for dim in segment) for segment in segments_of(expr)])


def _names(state: Mapping[str, Value], parents: Mapping[Dim, Dim]) -> dict[Dim, str]:
    """Each group by the first parameter that it moves; what lies in blocks says so."""
    names: dict[Dim, str] = {}
    taken: dict[str, int] = {}
    for key, value in state.items():
        for segment in (s for expr in value.axes or () for s in segments_of(expr)):
            for dim in segment:
                if dim.reason is None and dim not in names:
                    base = _owner(key) + _role(dim, segment, parents)
                    taken[base] = taken.get(base, 0) + 1
                    names[dim] = base if taken[base] == 1 else f"{base}.{taken[base]}"
    return names


def _role(dim: Dim, segment: Product, parents: Mapping[Dim, Dim]) -> str:
    moving = [other for other in segment if other.reason is None]
    outermost = moving[0] is dim and len(segment) > 1
    if outermost and (len(moving) > 1 or dim in parents.values()):
        return f".{dim.hint or 'heads'}"
    return ".units" if dim in parents or len(moving) > 1 else ""


def _owner(key: str) -> str:
    path, _, last = key.rpartition(".")
    kept = _WEIGHT.sub("", last)
    return ".".join(part for part in (path, kept) if part) or key


def _reasons(state: Mapping[str, Value], read_in_training: Container[Value]) -> dict[tuple[str, int], str]:
    """Why segments stay, of every axis that has one which stays, or whose outer units had to."""
    reasons: dict[tuple[str, int], str] = {}
    for key, value in state.items():
        for number, expr in enumerate(value.axes or ()):
            still = [s for s in segments_of(expr) if s and all(dim.reason is not None for dim in s)]
            if still and value.shape[number] > 1:
                reason = still[0][0].reason or ""
                reasons[key, number] = ONLY_IN_TRAINING if reason == UNREAD and value in read_in_training else reason
            elif any(dim.reason == INTERLEAVED for product in resolve(expr) for dim in product):
                reasons[key, number] = INTERLEAVED
    return reasons

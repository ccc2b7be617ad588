"""A derived and checked spec, in the words that tests compare."""

from __future__ import annotations

from typing import Any

from torch import nn

from alignment.check import check_spec
from alignment.spec import Axis, PermutationSpec
from alignment.tracing import derive_spec


def derived(model: nn.Module, *inputs: Any) -> PermutationSpec:
    """The spec of ``model``, which covers every tensor once and survives a check on the true weights."""
    spec = derive_spec(model, inputs)
    tensors = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if tensor.ndim}
    assert {key: spec.shape(key) for key in spec.axes} == tensors
    check_spec(model, spec, inputs)
    return spec


def layout(spec: PermutationSpec, tensor: str) -> list[str]:
    """Each axis as text: ``4·lstm + 3`` is four runs of group lstm, then three fixed positions."""
    return [_text(axis) for axis in spec.axes[tensor]]


def freedom(spec: PermutationSpec) -> dict[str, int | tuple[str, int]]:
    """The size of each group; of a family with its parent."""
    return {g: (spec.parents[g], n) if g in spec.parents else n for g, n in spec.groups.items()}


def _text(axis: Axis) -> str:
    return " + ".join("·".join(f.group or str(f.size) for f in segment) for segment in axis)

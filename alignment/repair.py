"""REPAIR: the statistics of a merged network's units, put between those of its ends (arXiv 2211.08403)."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alignment.batch_norm import BATCH_NORMS, watch_batch_norms, write_moments
from alignment.batches import Batch, first_inputs, inputs_of, joined, network_with, peeked, reusable
from alignment.channels import PARTS, along, channel_axes, key_of, named_modules
from alignment.moments import Moments, add_moments, layers_of, mean_and_variance
from alignment.partial_run import every_call
from alignment.precision import as_double
from alignment.spec import State
from alignment.tied import untied
from alignment.validate import check_finite

# A variance below this share of the squared mean is rounding: the unit is constant, and is only shifted.
CONSTANT = 1e-12

Vector = Float64[Tensor, "channels"]


def repair(
    model: nn.Module,
    reference: State,
    aligned: State,
    merged: State,
    batches: Iterable[Batch],
    weight: float = 0.5,
) -> dict[str, Tensor]:
    """``merged``, rescaled so that its units vary as those of its two ends.

    REPAIR (arXiv 2211.08403): along a straight path the variance of the units collapses, layer upon layer. With
    ``merged`` = (1 - w) · ``reference`` + w · ``aligned``, each output of a real layer with a bias (linear,
    convolution, LayerNorm, GroupNorm), the classifier's logits included, gets the mean and standard deviation

        (1 - w) · μ_ref + w · μ_aligned        (1 - w) · σ_ref + w · σ_aligned

    by an affine map that is folded into the layer's weight and bias. A layer whose weight or bias the network has under
    another name too, or which it calls more than once, stays as it is: no one map could be folded in. BatchNorm
    statistics are recomputed in the same pass, as `recalibrate` does. Each layer sees what the corrected ones before it
    give, normalised by the batch at hand.

    Costs one pass over ``batches`` for each of the three networks. ``model`` gives the architecture alone and
    is not touched. Raises `StateError` for a state that does not fit it or is not finite, `BatchError` for data
    that is not.
    """
    for role, state in (("reference", reference), ("aligned", aligned), ("merged", merged)):
        check_finite(state, role)
    kept = reusable(batches)
    ends = [network_with(model, state) for state in (reference, aligned)]
    axes = _axes(model, ends[0], first_inputs(kept, ends[0])[:2])
    goals = goals_between([_unit_moments(end, axes, inputs_of(kept, end)) for end in ends], (1 - weight, weight))
    network = network_with(model, merged)
    measured, batch_norm = _measure(network, axes, goals, inputs_of(kept, network))
    return write_moments(fold(merged, measured, goals), batch_norm)


def unit_moments(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The moments of the outputs of every layer that `corrected_moments` corrects: an end's own statistics.

    They pool over sites, as all moments do. ``model`` holds the end, and is not touched.
    """
    network = network_with(model)
    first, inputs_by_batch = peeked(inputs_of(batches, network))
    return _unit_moments(network, _axes_behind(model, network, first[:2]), inputs_by_batch)


def corrected_moments(model: nn.Module, goals: Mapping[str, Tensor], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The same moments of a merged network, each layer fed by those before it as corrected to ``goals``.

    With BatchNorm, of the layers behind the last of them, as its running statistics have it: what comes before one is
    normalised there, and corrected it would want new statistics, which no site alone has. ``model`` holds the merged
    network, and is not touched.
    """
    network = network_with(model)
    first, inputs_by_batch = peeked(inputs_of(batches, network))
    axes = _axes_behind(model, network, first[:2])
    return _measure(network, axes, goals, inputs_by_batch, settled=True)[0]


def goals_between(ends: Sequence[Moments], weights: Sequence[float]) -> dict[str, Tensor]:
    """What the units shall have: the weighted means of their ends' means and standard deviations.

    Plain tensors, ``L.mean`` and ``L.deviation`` for a layer ``L``, so that they cross a wire. Weights add up to one.
    """
    goals: dict[str, Tensor] = {}
    for layer in layers_of(ends[0]):
        found = [mean_and_variance(end, layer)[1:] for end in ends]
        for name, parts in (("mean", [m for m, _ in found]), ("deviation", [v.sqrt() for _, v in found])):
            goals[f"{layer}.{name}"] = sum(
                (weight * part for weight, part in zip(weights, parts, strict=True)), torch.zeros_like(parts[0])
            )
    return goals


def fold(merged: State, measured: Moments, goals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``merged`` with the affine maps that lead from `corrected_moments` to ``goals`` folded into its layers."""
    folded = dict(merged)
    for layer in layers_of(measured):
        _, mean, variance = mean_and_variance(measured, layer)
        scale, shift = _goal(goals, layer).map_from(mean, variance)
        weight, bias = (key_of(layer, part) for part in PARTS)
        folded[weight] = _mapped(merged[weight], scale)
        folded[bias] = _mapped(merged[bias], scale, shift)
    return folded


class Goal(NamedTuple):
    """What the outputs of one layer shall have."""

    mean: Vector
    deviation: Vector

    def map_from(self, mean: Vector, variance: Vector) -> tuple[Vector, Vector]:
        """(scale, shift) of the affine map that leads there."""
        varies = variance > CONSTANT * mean.square()
        scale = torch.where(varies, self.deviation / variance.sqrt(), 1.0)
        return scale, self.mean - scale * mean


def _goal(goals: Mapping[str, Tensor], layer: str) -> Goal:
    return Goal(goals[f"{layer}.mean"], goals[f"{layer}.deviation"])


def _axes(model: nn.Module, network: nn.Module, inputs: Tensor) -> dict[str, int]:
    """`channel_axes` of ``network``, a copy of ``model``, of the layers for which one map can be folded in.

    Not of those that have their weights under another name, nor of those that are called more than once.
    """
    axes = channel_axes(network, inputs)
    calls = Counter(every_call(network, axes, inputs))
    return {name: axes[name] for name in untied(model, axes) if calls[name] == 1}


def _axes_behind(model: nn.Module, network: nn.Module, inputs: Tensor) -> dict[str, int]:
    """`_axes`, of those layers alone that no BatchNorm layer runs after."""
    axes = _axes(model, network, inputs)
    norms = [name for name, layer in named_modules(network) if isinstance(layer, BATCH_NORMS)]
    calls = every_call(network, [*axes, *norms], inputs)
    last = max((number for number, name in enumerate(calls) if name in norms), default=-1)
    return {name: axis for name, axis in axes.items() if name not in calls[: last + 1]}


def _unit_moments(network: nn.Module, axes: Mapping[str, int], inputs_by_batch: Iterable[Tensor]) -> dict[str, Tensor]:
    """The moments of the outputs of the layers in ``axes``."""
    moments: dict[str, Tensor] = {}
    layers = dict(named_modules(network))
    with ExitStack() as hooks, torch.no_grad():
        for name, axis in axes.items():
            hooks.enter_context(layers[name].register_forward_hook(_reader(moments, name, axis)))
        for inputs in inputs_by_batch:
            network(inputs)
    return moments


def _measure(
    network: nn.Module,
    axes: Mapping[str, int],
    goals: Mapping[str, Tensor],
    inputs_by_batch: Iterable[Tensor],
    settled: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The moments of the layers' outputs and of the BatchNorm layers' inputs, all layers before them corrected.

    BatchNorm layers normalise by the batch at hand, or, ``settled``, by their running statistics.
    """
    moments: dict[str, Tensor] = {}
    batch_norm: dict[str, Tensor] = {}
    layers = dict(named_modules(network))
    with ExitStack() as hooks, torch.no_grad():
        watch_batch_norms(network, batch_norm, hooks, settled)
        for name, axis in axes.items():
            corrector = _corrector(moments, name, axis, _goal(goals, name))
            hooks.enter_context(layers[name].register_forward_hook(corrector))
        for inputs in joined(inputs_by_batch):
            network(inputs)
    return moments, batch_norm


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


def _reader(moments: dict[str, Tensor], name: str, axis: int) -> Hook:
    def read(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        add_moments(moments, name, outputs, axis)

    return read


def _corrector(moments: dict[str, Tensor], name: str, axis: int, goal: Goal) -> Hook:
    def correct(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        add_moments(moments, name, outputs, axis)
        batch: dict[str, Tensor] = {}
        add_moments(batch, name, outputs, axis)
        _, mean, variance = mean_and_variance(batch, name)
        scale, shift = (along(axis, vector, outputs) for vector in goal.map_from(mean, variance))
        return outputs * scale + shift

    return correct


def _mapped(tensor: Tensor, scale: Vector, shift: Vector | None = None) -> Tensor:
    """Row k of ``tensor`` times ``scale[k]``, plus ``shift[k]``, in fp64."""
    wide = as_double(tensor)
    mapped = wide * along(0, scale, wide)
    return (mapped if shift is None else mapped + along(0, shift, wide)).to(tensor.device, tensor.dtype)

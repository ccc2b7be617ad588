"""A closed-form merge of each linear and convolutional layer, from the Gram matrices of its inputs.

RegMean (arXiv 2212.09849, equation 2): the layer W̄ whose outputs are nearest to those of all the networks' layers W_i,
each on its own inputs, min Σ_i ‖W̄ X_i − W_i X_i‖², is W̄ᵀ = (Σ G_i)⁻¹ Σ G_i W_iᵀ with G_i = X_i X_iᵀ. Off-diagonals of
G_i are shrunk by α (there α = 0.9), since layers are merged each on its own.

Grams are plain tensors by layer name, over the inputs that `linear_layers` says. They are sums over samples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alignment.batches import Batch, inputs_of, network_with
from alignment.errors import StateError
from alignment.hooks import watch_inputs
from alignment.linear_layers import matrix_of, parts_of, rows_of
from alignment.moments import accumulate
from alignment.solving import solve
from alignment.spec import State
from alignment.validate import check_one_each

RIDGE = 1e-6
"""Share of its mean diagonal that is added to a summed Gram matrix, for inputs that are always 0."""
MOST_ALPHA = 0.999
"""Most that is left of off-diagonals. Sums in single precision, as sites take and send them, err by up to 4e-4 of
√(G_ii G_jj) with ten inputs or more: where inputs move together, or never vary, only that would tell them apart."""


def gram_sums(
    model: nn.Module, batches: Iterable[Batch], layers: Sequence[str]
) -> dict[str, Float64[Tensor, "inputs inputs"]]:
    """Σ x xᵀ over the inputs of each of ``layers``, over samples and positions; of a convolution, over its patches.

    ``model`` runs in eval mode, without gradients, and is not touched. Raises `ValueError` without batches.
    """
    network = network_with(model)
    sums: dict[str, Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name in layers:
            layer = network.get_submodule(name)
            hooks.enter_context(watch_inputs(layer, _adder(sums, name, layer)))
        for inputs in inputs_of(batches, network):
            network(inputs)
    return sums


def merge_layers(
    merged: State,
    states: Sequence[State],
    grams: Sequence[Mapping[str, Tensor]],
    alpha: float = 0.9,
) -> dict[str, Tensor]:
    """``merged`` with each layer that all ``grams`` speak of solved by least squares; see the top of this file.

    ``grams[i]`` is of the inputs of ``states[i]``, which must be aligned; ``alpha`` counts as `MOST_ALPHA` at most.
    They are looked at one after another, so that they may lie on a disk. Raises `StateError` for a Gram matrix of
    another size than the layer's inputs, `ValueError` unless each of at least one state has its matrices.
    """
    check_one_each("set of Gram matrices", len(grams), len(states))
    solved = dict(merged)
    shared = set[str].intersection(*map(set[str], grams))
    for layer in [name for name in grams[0] if name in shared]:
        networks = ((matrix_of(state, layer), each[layer].double()) for state, each in zip(states, grams, strict=True))
        solved |= parts_of(merged, layer, _solve(layer, networks, alpha))
    return solved


def _solve(layer: str, networks: Iterable[tuple[Tensor, Tensor]], alpha: float) -> Tensor:
    """The rows of a layer of which each network has rows and a Gram matrix."""
    alpha = min(alpha, MOST_ALPHA)
    sums: dict[str, Tensor] = {}
    for rows, gram in networks:
        size = rows.shape[1]
        if tuple(gram.shape) != (size, size):
            raise StateError(f"Gram matrix of {layer!r}: expected {(size, size)}, got {tuple(gram.shape)}")
        shrunk = alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())
        accumulate(sums, {"gram": shrunk, "across": shrunk @ rows.T, "rows": rows.T, "networks": gram.new_ones(())})
    # Where no input ever came, every answer is as good: the ridge then gives the mean of the networks. It is the same
    # for all inputs, since a share of each diagonal would be 0 just there.
    strength = RIDGE * (sums["gram"].diagonal().mean().item() or 1.0)
    held = sums["gram"] + strength * torch.eye(len(sums["gram"]), dtype=torch.float64)
    return solve(held, sums["across"] + strength * sums["rows"] / sums["networks"]).T


def _adder(sums: dict[str, Tensor], name: str, layer: nn.Module) -> Callable[[Tensor], None]:
    def add(inputs: Tensor) -> None:
        for x in rows_of(layer, inputs.detach()):
            accumulate(sums, {name: (x.T @ x).cpu().double()})

    return add

"""On which axis of its outputs a layer has its units."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from operator import setitem
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alignment.hooks import watch_inputs
from alignment.precision import widened

# Layers whose outputs scale with weight and bias, and shift with bias: an affine correction folds into them.
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm)

PARTS = ("weight", "bias")


def key_of(layer: str, part: str) -> str:
    """The name in a state dict of ``part`` of ``layer``; a network itself is its layer of no name."""
    return f"{layer}.{part}".removeprefix(".")


def named_modules(network: nn.Module, once: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The modules of ``network``, itself included, by name; of several names the first, or, not ``once``, all."""
    yield from cast(Iterable[tuple[str, nn.Module]], network.named_modules(remove_duplicate=once))


def channel_axes(network: nn.Module, inputs: Tensor) -> dict[str, int]:
    """For each layer of kind `AFFINE` that has real weights and a bias and runs on ``inputs``, the axis of its units.

    The axis is found by trial, not by kind, since a LayerNorm may well sit between two transpositions.
    """
    seen: dict[str, Tensor] = {}
    # What holds its weights in another form, as `parametrizations` do, has none that a correction folds into.
    weights = network.state_dict()
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in named_modules(network):
            if isinstance(layer, AFFINE) and all(_is_real(weights.get(key_of(name, part))) for part in PARTS):
                hooks.enter_context(watch_inputs(layer, partial(setitem, seen, name)))
        network(inputs)
    layers = dict(named_modules(network))
    found = {name: _channel_axis(layers[name], _stand_in(caught)) for name, caught in seen.items()}
    return {name: axis for name, axis in found.items() if axis is not None}


def along(axis: int, vector: Tensor, like: Tensor) -> Tensor:
    """``vector``, in the dtype and on the device of ``like``, shaped to lie on its ``axis``."""
    shape = [1] * like.ndim
    shape[axis] = len(vector)
    return vector.to(like.device, like.dtype).reshape(shape)


def _is_real(weight: object) -> bool:
    return isinstance(weight, Tensor) and not weight.is_complex()


def _stand_in(inputs: Tensor) -> Tensor:
    """Numbers in the place of ``inputs``, which a network that overflows makes infinite: the axis is the layer's."""
    numbers = torch.linspace(-1, 1, inputs.numel(), dtype=torch.float64)
    return numbers.reshape(inputs.shape).to(inputs)


def _channel_axis(layer: nn.Module, inputs: Tensor) -> int | None:
    """The axis on which a shift of the bias by 1, 2, 3… appears, or None.

    None too where outputs do not scale with the weights, which a subclass may use in another form. Half precision would
    round the shift away, as large weights do: they are brought to size 1.
    """
    # A bias that is frozen as a buffer is one too.
    before = {part: _of_size_one(widened(cast(Tensor, getattr(layer, part)))) for part in PARTS}
    bias = before["bias"]
    ramp = torch.arange(1, bias.numel() + 1, dtype=torch.float64)
    after = before | {"bias": bias + ramp.reshape(bias.shape).to(bias)}
    twice = {part: 2 * tensor for part, tensor in before.items()}
    with torch.no_grad():
        start, end, doubled = (
            cast(Tensor, functional_call(layer, parts, (widened(inputs),))) for parts in (before, after, twice)
        )
    if not doubled.allclose(2 * start, rtol=1e-3, atol=1e-3 * start.abs().max().item()):
        return None
    shift = end - start
    for axis in range(1, shift.ndim if bias.ndim == 1 else 0):
        if shift.shape[axis] == len(ramp) and shift.allclose(along(axis, ramp, shift), atol=0.1):
            return axis
    return None


def _of_size_one(tensor: Tensor) -> Tensor:
    # A layer without inputs has a weight without numbers.
    size = tensor.abs().max() if tensor.numel() else 0
    return tensor / size if size > 0 else tensor

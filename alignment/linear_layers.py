"""Linear and convolutional layers as matrices: which of a network are, their weights, and the inputs of these.

Each output of such a layer is a row of weights times the inputs at one place, as they lie; a bias is a weight of an
input that is always 1. What is solved for a layer (`least_squares`, `sequential`) is solved for that matrix.
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn

from alignment.batches import Batch, first_inputs, network_with
from alignment.channels import key_of, named_modules
from alignment.partial_run import calls_of
from alignment.precision import widened
from alignment.spec import State
from alignment.tied import untied

MOST_PATCHES = 2**21
"""Most numbers in the patches that are laid out at once: 8 MB, which are had again and again. What has 32 MB or more
glibc maps anew each time, page by page."""


def gram_sizes(model: nn.Module, example: Batch) -> dict[str, int]:
    """Rows of the Gram matrix of each layer, in the order in which ``model`` calls them when it runs on ``example``.

    `nn.Linear`, and `nn.Conv2d` with one group and zero padding, have one, if they are real and called: what only
    training uses, or the projection inside `nn.MultiheadAttention`, whose weights are read from outside, has no inputs.
    Left out is also what ``model`` has under another name too: written under one, it would differ from the other.
    """
    network = network_with(model)
    layers = {
        name: layer
        for name, layer in named_modules(network)
        if isinstance(layer, nn.Linear | nn.Conv2d) and _is_plain(layer)
    }
    # What holds its weights in another form, as `parametrizations` do, has none that could be set.
    weights = network.state_dict()
    layers = {name: layer for name, layer in layers.items() if key_of(name, "weight") in weights}
    called = untied(model, calls_of(network, layers, first_inputs([example], network)))
    return {name: prod(layers[name].weight.shape[1:]) + (layers[name].bias is not None) for name in called}


def matrix_of(state: State, layer: str) -> Tensor:
    """The layer's weights with one row for each output, its bias a last column."""
    weight, bias = _keys(layer)
    rows = state[weight].cpu().double().flatten(1)
    return torch.cat((rows, state[bias].cpu().double()[:, None]), 1) if bias in state else rows


def parts_of(like: State, layer: str, matrix: Tensor) -> dict[str, Tensor]:
    """The inverse of `matrix_of`: the layer's tensors, of the shapes, dtypes and devices of those in ``like``."""
    weight, bias = _keys(layer)
    inputs = prod(like[weight].shape[1:])
    parts = {weight: matrix[:, :inputs], **({bias: matrix[:, inputs]} if bias in like else {})}
    return {key: part.reshape(like[key].shape).to(like[key].device, like[key].dtype) for key, part in parts.items()}


def rows_of(layer: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """One row for each time that the layer's weights are applied; of a convolution, some samples at a time.

    Patches are as many times the inputs as a kernel has places: all at once they are what a site's memory goes to.
    In half precision sums of products would overflow: rows are in fp32 then.
    """
    inputs = batched(layer, inputs)
    at_once = len(inputs)
    if isinstance(layer, nn.Conv2d):
        at_once = max(1, MOST_PATCHES // (inputs[0].numel() * prod(layer.kernel_size)))
    for part in map(widened, torch.split(inputs, at_once)):
        rows = _patches(layer, part) if isinstance(layer, nn.Conv2d) else part.flatten(0, -2)
        yield rows if layer.bias is None else torch.cat((rows, rows.new_ones(len(rows), 1)), 1)


def batched(layer: nn.Module, tensor: Tensor) -> Tensor:
    """``tensor`` with an axis of samples before it, where a layer was given one sample alone."""
    return tensor[None] if tensor.ndim == (3 if isinstance(layer, nn.Conv2d) else 1) else tensor


def _is_plain(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether outputs are real weights times inputs, as they lie; a subclass may compute something else."""
    if layer.weight.is_complex():
        return False
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    usual = all(getattr(type(layer), name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward"))
    return usual and isinstance(layer.padding, tuple) and layer.groups == 1 and layer.padding_mode == "zeros"


def _keys(layer: str) -> tuple[str, str]:
    return key_of(layer, "weight"), key_of(layer, "bias")


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    assert isinstance(layer.padding, tuple)
    unfolded = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)

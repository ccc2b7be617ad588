"""Whether a network gives the features that its last layer reads their size, whatever its weights' size is."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from alignment.batch_norm import batch_norms
from alignment.batches import network_with
from alignment.channels import key_of, named_modules
from alignment.hooks import watch_inputs

# Whose gain may have several axes, as a weight has. Others are known by what they do.
NORMS = (nn.LayerNorm, nn.RMSNorm)
# Small, so that no activation saturates: from one to the other, features double for each layer behind the last norm.
# Those that are normalised stay, but for attention, which heeds its weights' size. Powers of two round nothing.
SCALES = (1 / 16, 1 / 8)
GROWTH = 1.4
# What a norm adds to a variance, of features however small.
LITTLE = 1e-24


@torch.no_grad()
def scales_features(model: nn.Module, head: str, inputs: Tensor) -> bool:
    """Whether the inputs of ``head`` get larger and smaller as the weights before it do.

    By trial, of two forward passes: then no normalisation behind the last hidden layer gives them their size back,
    wherever else there is one. What counts of features is how far they lie apart among ``inputs``, two samples or more:
    what all have in common a bias may give. BatchNorm that keeps statistics takes those of the batch, since they are
    renewed when weights change. Features that vanish with the weights have lost their size. False of a network that
    refuses such weights.
    """
    try:
        small, large = (_spread(network, head, inputs) for network in _scaled(model, head))
    except Exception:
        # A network may take no weights but of a kind: then nothing is told.
        return False
    return not 0 < large <= GROWTH * small


def _scaled(model: nn.Module, head: str) -> Iterator[nn.Module]:
    """The network with its weights before ``head`` times each of the scales, and without their biases."""
    for scale in SCALES:
        network = network_with(model)
        state = network.state_dict()
        weights, biases = _weights_and_biases(network, head)
        scaled = {key: state[key] * scale for key in weights}
        network.load_state_dict({**state, **scaled, **{key: torch.zeros_like(state[key]) for key in biases}})
        for layer in network.modules():
            if isinstance(getattr(layer, "eps", None), float):
                vars(layer)["eps"] = LITTLE
        for layer in batch_norms(network).values():
            layer.train()
        yield network


def _weights_and_biases(network: nn.Module, head: str) -> tuple[Collection[str], Collection[str]]:
    """The names of the weights of all layers but ``head``, and of what these layers add to their products."""
    weights: list[str] = []
    biases: list[str] = []
    for name, layer in named_modules(network, once=False):
        own = dict(layer.named_parameters(recurse=False))
        matrices = {part for part, each in own.items() if each.ndim > 1}
        if matrices and name != head and not isinstance(layer, NORMS):
            weights += [key_of(name, part) for part in matrices]
            biases += [key_of(name, part) for part in own.keys() - matrices if "bias" in part]
    return weights, biases


def _spread(network: nn.Module, head: str, inputs: Tensor) -> float:
    """How far the features of ``inputs`` lie apart."""
    found: list[Tensor] = []
    with watch_inputs(network.get_submodule(head), found.append):
        network(inputs)
    features = found[-1].double()
    return (features - features.mean(0)).square().sum().sqrt().item()

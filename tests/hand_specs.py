"""Permutation specs written by hand, for networks whose groups everyone can see."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from alignment.spec import Axis, Factor, PermutationSpec, State

Names = tuple[str | None, ...]


def mlp_spec(state: State) -> PermutationSpec:
    """For layers ``0.weight``, ``0.bias``, ``1.weight``…; the outputs of all but the last are groups P0, P1…"""
    last = max(int(name.split(".")[0]) for name in state)
    axes: dict[str, Names] = {}
    for name in state:
        layer = int(name.split(".")[0])
        rows = f"P{layer}" if layer < last else None
        axes[name] = (rows,) if name.endswith("bias") else (rows, f"P{layer - 1}" if layer else None)
    return PermutationSpec.by_hand(state, axes)


def resnet_spec(state: State) -> PermutationSpec:
    """For ResNets in torchvision's names: one group per stage's stream, one per convolution inside a block."""
    axes: dict[str, Names] = {}
    _add_layer(state, axes, ("conv1", "bn1"), None, "stem")
    stream = "stem"
    for block in _blocks(state):
        after = f"{block}.stream" if f"{block}.downsample.0.weight" in state else stream
        _add_layer(state, axes, (f"{block}.downsample.0", f"{block}.downsample.1"), stream, after)
        depth = sum(f"{block}.conv{k}.weight" in state for k in (1, 2, 3))
        for k in range(1, depth + 1):
            before = stream if k == 1 else f"{block}.inner{k - 1}"
            names = (f"{block}.conv{k}", f"{block}.bn{k}")
            _add_layer(state, axes, names, before, after if k == depth else f"{block}.inner{k}")
        stream = after
    axes["fc.weight"] = (None, stream)
    return PermutationSpec.by_hand(state, axes, frozenset(name for name in state if ".running_" in name))


def _blocks(state: State) -> list[str]:
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in state if name.startswith("layer")))


def _add_layer(state: State, axes: dict[str, Names], names: tuple[str, str], before: str | None, after: str) -> None:
    convolution, norm = names
    if f"{convolution}.weight" in state:
        axes[f"{convolution}.weight"] = (after, before, None, None)
        axes |= {name: (after,) for name in state if name.startswith(f"{norm}.") and state[name].ndim}


def mlp_state(widths: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """A random MLP with those widths, named as `mlp_spec` reads it."""
    state: dict[str, Tensor] = {}
    for layer, (before, after) in enumerate(pairwise(widths)):
        state[f"{layer}.weight"] = torch.randn(after, before, generator=generator)
        state[f"{layer}.bias"] = torch.randn(after, generator=generator)
    return state


def random_state(spec: PermutationSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Standard normal tensors in the shapes of ``spec``."""
    return {name: torch.randn(spec.shape(name), generator=generator) for name in spec.axes}


def _plain() -> PermutationSpec:
    return mlp_spec(mlp_state((5, 6, 4, 3), torch.Generator().manual_seed(0)))


def _segmented() -> PermutationSpec:
    """A convolution and another, concatenated, flattened over two pixels, into a linear layer."""
    p, q, pixels = Factor(4, "P"), Factor(3, "Q"), Factor(2)
    kernel = ((Factor(3),),)
    axes: dict[str, tuple[Axis, ...]] = {
        "left": (((p,),), ((Factor(2),),), kernel),
        "right": (((q,),), ((Factor(2),),), kernel),
        "norm": (((p,), (q,)),),
        "mean": (((p,), (q,)),),
        "linear": (((Factor(5),),), ((p, pixels), (q, pixels))),
        "partly": (((p,), (Factor(2),)),),
        "still": (((Factor(3),),),),
    }
    return PermutationSpec({"P": 4, "Q": 3}, axes, buffers=frozenset({"mean"}))


def _recurrent() -> PermutationSpec:
    """An LSTM: four gates on one axis, the hidden state on two axes of one tensor."""
    hidden, gates = Factor(4, "hidden"), Factor(4)
    axes: dict[str, tuple[Axis, ...]] = {
        "weight_ih": (((gates, hidden),), ((Factor(3),),)),
        "weight_hh": (((gates, hidden),), ((hidden,),)),
        "bias": (((gates, hidden),),),
        "out": (((Factor(2),),), ((hidden,),)),
    }
    return PermutationSpec({"hidden": 4}, axes)


def _attention() -> PermutationSpec:
    """Attention: heads, and below each head units of its values and of its keys."""
    stream, heads = Factor(5, "stream"), Factor(3, "heads")
    values, keys = (heads, Factor(2, "values")), (heads, Factor(3, "keys"))
    axes: dict[str, tuple[Axis, ...]] = {
        "embedding": (((Factor(4),),), ((stream,),)),
        "query": ((keys,), ((stream,),)),
        "key": ((keys,), ((stream,),)),
        "value": ((values,), ((stream,),)),
        "temperature": (((heads,),),),
        "out": (((stream,),), (values,)),
    }
    return PermutationSpec(
        {"stream": 5, "heads": 3, "values": 2, "keys": 3}, axes, {"values": "heads", "keys": "heads"}
    )


def _grouped() -> PermutationSpec:
    """A grouped convolution: below each of its groups, units of its inputs and of its outputs on one tensor."""
    groups, inputs, outputs = Factor(2, "groups"), Factor(3, "inputs"), Factor(2, "outputs")
    axes: dict[str, tuple[Axis, ...]] = {
        "before": (((groups, inputs),), ((Factor(4),),)),
        "grouped": (((groups, outputs),), ((inputs,),), ((Factor(3),),)),
        "bias": (((groups, outputs),),),
        "after": (((Factor(4),),), ((groups, outputs),)),
    }
    return PermutationSpec({"groups": 2, "inputs": 3, "outputs": 2}, axes, {"inputs": "groups", "outputs": "groups"})


SPECS: Mapping[str, PermutationSpec] = {
    "plain": _plain(),
    "segmented": _segmented(),
    "recurrent": _recurrent(),
    "attention": _attention(),
    "grouped": _grouped(),
}
"""Small specs, one for each kind of axis."""

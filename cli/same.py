"""Whether networks that were given as several are one and the same.

It is told, and no error: a script that merges what it finds goes on, and its answer is right.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cli.networks import State

NOTHING_MERGED = "All of them are one network: nothing was merged."


def same_networks(names: Sequence[str], states: Sequence[State]) -> Iterator[str]:
    """A sentence for each network that is one before it again, weight for weight; ``states`` have the same tensors."""
    for k, state in enumerate(states):
        first = next((j for j in range(k) if _equal(states[j], state)), None)
        if first is not None:
            # A file that is given twice has the same label twice.
            what = f"{names[k]} was given twice"
            if names[first] != names[k]:
                what = f"{names[first]} and {names[k]} are the same network: all their weights are equal"
            yield f"{what}. Was another file meant?"


def merged_same(names: Sequence[str], states: Sequence[State]) -> list[str]:
    """The same of networks that were merged, and a sentence more where all of them are one."""
    found = list(same_networks(names, states))
    # Each but the first is one before it.
    return [*found, NOTHING_MERGED] if len(found) == len(states) - 1 else found


def _equal(one: State, other: State) -> bool:
    return all(torch.equal(_bytes(tensor), _bytes(other[name])) for name, tensor in one.items())


def _bytes(tensor: Tensor) -> Tensor:
    # Torch compares no fp8.
    return tensor.contiguous().reshape(-1).view(torch.uint8)

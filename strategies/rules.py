"""Rules that withstand poisoned networks, once all are aligned: block by block, so that memory stays bounded.

============  =====================================================================================================
median        of each number the median over the sites (Yin et al. 2018, arXiv 1803.01498, definition 1)
trimmed-mean  of each number the mean without the f greatest and the f least (the same, definition 2)
krum          the network with the least Σ of squared distances to its n − f − 2 nearest (Blanchard et al. 2017,
              arXiv 1703.02757, section 4)
============  =====================================================================================================

n sites, f of them poisoned. Every site has the same say, since a poisoned one would claim to weigh much. Sums are fp64.
Only aligned networks have coordinates that mean the same: of unaligned ones the median is noise.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from alignment.precision import is_continuous
from alignment.spec import State
from strategies.spool import SpooledState

Rule = Literal["mean", "trimmed-mean", "median", "krum"]
RULES: tuple[Rule, ...] = get_args(Rule)
# Numbers of all networks together that are looked at at a time: 128 MB in double precision.
BLOCK = 1 << 24


def robust(
    rule: Rule,
    states: Sequence[State],
    reference: State,
    malicious: int = 1,
    block: int = BLOCK,
    buffers: Collection[str] = (),
) -> dict[str, Tensor]:
    """What ``rule`` makes of ``states``, which are in site order; integer tensors are ``reference``'s.

    Which network is near others, its parameters tell: ``buffers`` do not count. Running variances can be a thousand
    times all else, and with those of the usual site poison would be the nearest.

    Raises `ValueError` for fewer states than the rule needs to withstand ``malicious`` poisoned ones.
    """
    needed = {"trimmed-mean": 2 * malicious + 1, "krum": 2 * malicious + 3}.get(rule, 1)
    if len(states) < needed:
        raise ValueError(f"{rule} withstands {malicious} of {needed} networks or more, got {len(states)}")
    continuous = {name: like for name, like in reference.items() if is_continuous(like)}
    if rule == "krum":
        counted = {name: like for name, like in continuous.items() if name not in buffers}
        chosen = states[_nearest(states, counted, len(states) - malicious - 2, block)]
        found = {name: chosen[name].clone() for name in continuous}
    else:
        cut = malicious if rule == "trimmed-mean" else (len(states) - 1) // 2
        found = {name: _middle(states, name, like, cut, block) for name, like in continuous.items()}
    return {name: found[name] if name in found else like.clone() for name, like in reference.items()}


def _middle(states: Sequence[State], name: str, like: Tensor, cut: int, block: int) -> Tensor:
    """The mean of what is left of each number when the ``cut`` greatest and least are gone."""
    parts = [
        values.sort(0).values[cut : len(states) - cut].mean(0).to(like.dtype)
        for values in _blocks(states, name, like, block)
    ]
    return torch.cat(parts).reshape(like.shape)


def _nearest(states: Sequence[State], counted: State, n_nearest: int, block: int) -> int:
    """The network with the least Σ of squared distances to its ``n_nearest``; on ties the first."""
    squares = torch.zeros(len(states), len(states), dtype=torch.float64)
    for name, like in counted.items():
        for values in _blocks(states, name, like, block):
            for number, one in enumerate(values):
                squares[number] += (values - one).square_().sum(1)
    # Its own distance, 0, comes first.
    scores = squares.sort(1).values[:, 1 : n_nearest + 1].sum(1)
    return int(scores.argmin())


def _blocks(states: Sequence[State], name: str, like: Tensor, block: int) -> Iterator[Tensor]:
    """The tensor of all networks in double precision, (networks, numbers), some rows of its first axis at a time."""
    if like.ndim == 0:
        yield torch.stack([state[name].double().reshape(1) for state in states])
        return
    rows = max(1, block // max(1, len(states) * like[:1].numel()))
    ends = [*range(0, like.shape[0], rows), like.shape[0]]
    for first, last in pairwise(ends):
        yield torch.stack([_rows(state, name, first, last).double().flatten() for state in states])


def _rows(state: State, name: str, first: int, last: int) -> Tensor:
    return state.rows(name, first, last) if isinstance(state, SpooledState) else state[name][first:last]

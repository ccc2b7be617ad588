"""The rows that a mover's units make of one edge, a bounded number of columns at a time.

A run is the positions, on the first moving axis beside the edge, that are looked at together; None: all of them.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from alignment.flat import Edge, Mover
from alignment.pair import Pair

RUN_ELEMENTS = 1 << 17

Indices = Mapping[Mover, Tensor]


def runs(edge: Edge, where: Tensor | None = None) -> Iterator[Tensor | None]:
    """``where`` (default: everything) in runs of at most `RUN_ELEMENTS` elements, or of one position."""
    if not edge.others:
        yield None
        return
    positions = edge.flat.shape[edge.others[0][0]]
    elements = torch.Size(edge.flat.shape).numel()
    if where is None and elements <= RUN_ELEMENTS:
        yield None
        return
    chosen = torch.arange(positions) if where is None else where
    if len(chosen):
        yield from chosen.split(max(1, RUN_ELEMENTS * positions // elements))


def reference_rows(pair: Pair, edge: Edge, run: Tensor | None) -> Tensor:
    """[units, columns] of the reference. Perhaps a view of the state: never to be written to."""
    tensor = edge.flat.of(pair.reference[edge.flat.block.tensor]).cpu()
    if run is not None:
        tensor = tensor.index_select(edge.others[0][0], run)
    return _rows(tensor, edge.axis, pair.dtype)


def candidate_rows(pair: Pair, edge: Edge, indices: Indices, run: Tensor | None) -> Tensor:
    """[units, columns] of the candidate, in its own order of units, all that moves beside them permuted."""
    tensor = edge.flat.of(pair.candidate[edge.flat.block.tensor]).cpu()
    for axis, mover in edge.others:
        index = indices[mover]
        if run is not None and axis == edge.others[0][0]:
            index = index[run]
        if not is_everything(index, tensor.shape[axis]):
            tensor = tensor.index_select(axis, index)
    return _rows(tensor, edge.axis, pair.dtype)


def is_everything(index: Tensor, size: int) -> bool:
    """Whether ``index`` takes all of an axis of that size, in order."""
    return len(index) == size and torch.equal(index, torch.arange(size))


def _rows(tensor: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).to(dtype)

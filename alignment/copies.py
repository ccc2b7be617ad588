"""A start for networks that differ little but for a permutation: groups recognised outwards from what is fixed."""

from collections.abc import Mapping, Sequence
from math import fsum

import torch
from torch import Tensor

from alignment.certificate import KEEP_ONE_IN, certain_assignment
from alignment.flat import Edge, EdgesOf, Mover, MoverEdge, Position
from alignment.pair import Pair, dot
from alignment.permutation import identity_permutation
from alignment.precision import comparable

ALIKE = 0.9
"""Networks whose cosine is below this are no copies, whatever was recognised."""


def recognise_copy(pair: Pair, edges: EdgesOf) -> dict[str, Tensor] | None:
    """The permutation under which the candidate is nearly the reference, or None.

    A group is assigned by the tensors that it shares with groups already recognised, or with none, and only where
    that assignment is certain. One pass from inputs to outputs finds all of a permuted copy, where Algorithm 1
    must first undo its visits to groups whose neighbours were still wrong.
    """
    position = Position(pair.spec, identity_permutation(pair.spec))
    if are_alike(pair, pair.baseline):
        return position.permutation
    tried = dict.fromkeys(edges, 0)
    progress = True
    while tried and progress:
        progress = False
        for root in list(tried):
            usable = [edge for edge in edges[root] if _is_usable(edge, tried)]
            if len(usable) > tried[root]:
                tried[root] = len(usable)
                changes = _recognise(pair, root, usable, position)
                if changes is not None:
                    position.move(changes)
                    del tried[root]
                    progress = True
    if tried or not are_alike(pair, pair.objective(position.permutation)):
        return None
    return position.permutation


def is_exact_copy(pair: Pair) -> bool:
    """Whether each scored tensor holds the same values in both networks, in whatever order."""
    return all(torch.equal(_sorted(pair.reference[name]), _sorted(pair.candidate[name])) for name in pair.scored)


def _sorted(tensor: Tensor) -> Tensor:
    return comparable(tensor).flatten().sort().values


def _is_usable(edge: MoverEdge, unknown: Mapping[str, int]) -> bool:
    mover, (_, _, others) = edge
    return len(mover) <= 2 and not any(other[0] in unknown for _, other in others)


def _recognise(pair: Pair, root: str, usable: Sequence[MoverEdge], position: Position) -> dict[str, Tensor] | None:
    """The certain permutation of ``root`` and its families, if all of ``usable`` agrees on one."""
    changes: dict[str, Tensor] = {}
    for mover in dict.fromkeys(mover for mover, _ in usable):
        index = _certain(pair, [edge for own, edge in usable if own == mover], position)
        split = None if index is None else _split(pair, mover, index)
        if split is None or not torch.equal(changes.get(root, split[root]), split[root]):
            return None
        changes |= split
    families = {family for family, parent in pair.spec.parents.items() if parent == root}
    return changes if changes.keys() == {root, *families} else None


def _certain(pair: Pair, edges: Sequence[Edge], position: Position) -> Tensor | None:
    index = certain_assignment(pair, edges, position, KEEP_ONE_IN)
    return index if index is not None else certain_assignment(pair, edges, position, 1)


def _split(pair: Pair, mover: Mover, index: Tensor) -> dict[str, Tensor] | None:
    """A flat index as the permutations of the mover's group and family, if it is made of such."""
    if len(mover) == 1:
        return {mover[0]: index}
    units = pair.spec.groups[mover[1]]
    parent, rows = (index // units).reshape(-1, units), (index % units).reshape(-1, units)
    return {mover[0]: parent[:, 0], mover[1]: rows} if bool((parent == parent[:, :1]).all()) else None


def are_alike(pair: Pair, objective: float, cosine: float = ALIKE) -> bool:
    """Whether ``objective`` is that of networks with at least this ``cosine``."""
    states = (pair.reference, pair.candidate)
    left, right = (fsum(dot(state[name], state[name]) for name in pair.scored) for state in states)
    return objective >= cosine * left**0.5 * right**0.5

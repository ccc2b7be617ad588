"""A start that does not depend on the order of the candidate's units: groups assigned outwards from what is fixed.

Algorithm 1 starts at the identity, which means nothing for networks trained apart: another order of the candidate's
units gives another start, and ends elsewhere. Inputs and outputs do have an order. So the groups are assigned one after
the other, each by the tensors that it shares with what has its place already, or with nothing that moves. The next one
is always the group of which most is known, by the share of its columns; on ties the first of the spec.

A neighbour that was assigned before saw less. The one that shares most with the newcomer is assigned again, and then
the newcomer is. docs/decisions/0010 has the measurements.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignment.assignment import assign
from alignment.flat import EdgesOf, MoverEdge, Position
from alignment.joint_group import JointGroup, meets_itself
from alignment.pair import Pair
from alignment.permutation import identity_permutation
from alignment.similarity import Similarity


def outward_start(pair: Pair, edges: EdgesOf) -> Position:
    """Where to begin with networks that are no copies. Costs about three visits to each group."""
    position = Position(pair.spec, identity_permutation(pair.spec), is_near=False)
    known: dict[str, None] = {}
    while (root := _next(edges, known)) is not None:
        _place(pair, root, edges, known, position)
        known[root] = None
        if (neighbour := _closest(edges[root], known, root)) is not None:
            _place(pair, neighbour, edges, known, position)
            _place(pair, root, edges, known, position)
    return position


def _next(edges: EdgesOf, known: Mapping[str, None]) -> str | None:
    shares = {root: _share_known(edges[root], known) for root in edges if root not in known}
    best = max(shares, key=lambda root: shares[root], default=None)
    return best if best is not None and shares[best] > 0 else None


def _share_known(edges: Sequence[MoverEdge], known: Mapping[str, None]) -> float:
    usable = sum(edge.columns for _, edge in _usable(edges, known))
    return usable / sum(edge.columns for _, edge in edges) if usable else 0.0


def _usable(edges: Sequence[MoverEdge], known: Mapping[str, None]) -> list[MoverEdge]:
    """The edges beside which everything has its place; a group's own other axis never has."""
    return [(own, e) for own, e in edges if not meets_itself(e) and all(other[0] in known for _, other in e.others)]


def _closest(edges: Sequence[MoverEdge], known: Mapping[str, None], root: str) -> str | None:
    """The known neighbour that shares most columns with ``root``."""
    shared: dict[str, int] = {}
    for _, edge in edges:
        for other in {mover[0] for _, mover in edge.others} & known.keys() - {root}:
            shared[other] = shared.get(other, 0) + edge.columns
    return max(known, key=lambda other: shared.get(other, 0), default=None) if shared else None


def _place(pair: Pair, root: str, edges: EdgesOf, known: Mapping[str, None], position: Position) -> None:
    """Moves ``root``, and the families below it, to the best that its usable edges tell of."""
    position.move(_proposal(pair, root, _usable(edges[root], known), position))


def _proposal(pair: Pair, root: str, edges: Sequence[MoverEdge], position: Position) -> dict[str, Tensor]:
    if root in pair.spec.parents.values():
        return JointGroup(pair, root, edges, 0.0).proposal(position)
    units = pair.spec.groups[root]
    similarity = Similarity(pair, [edge for _, edge in edges], units).matrix(position)
    return {root: assign(similarity, position.permutation[root], pair.scratch(units, torch.float64))}

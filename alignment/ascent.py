"""Coordinate ascent over the groups of a network: Algorithm 1 of Git Re-Basin (arXiv 2209.04836)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from alignment.copies import are_alike, is_exact_copy, recognise_copy
from alignment.flat import Mover, MoverEdge, Position, edges_of, flatten
from alignment.joint_group import JointGroup, meets_itself
from alignment.outwards import outward_start
from alignment.pair import Pair
from alignment.permutation import Permutation, random_permutation
from alignment.plain_group import PlainGroup
from alignment.spec import PermutationSpec

# Until an exact copy is found, in which nothing is certain outwards; five climbs were the most that any took.
MOST_CLIMBS, MOST_SWEEPS = 20, 20
SAME = 1 - 1e-6


@dataclass(frozen=True)
class Climb:
    """Where an ascent ended."""

    permutation: Mapping[str, Tensor]
    objective: float
    sweeps: int
    converged: bool


class Solver(Protocol):
    """One visit to one group."""

    def solve(self, position: Position) -> dict[str, Tensor]:
        """What to change, if that gains; else nothing."""
        ...


class Ascent:
    """Climbs from any start; what was computed on one climb is updated, not recomputed, on the next."""

    def __init__(self, pair: Pair, tolerance: float) -> None:
        self.pair = pair
        flats = [flatten(block) for block in pair.blocks]
        self._edges = {name: list(edges_of(flats, name)) for name in pair.roots}
        self._has_couplings = any(len(mover) > 2 for mover, _ in chain(*self._edges.values()))
        self._roots = [_Root(pair, name, edges, tolerance) for name, edges in self._edges.items()]

    def first_position(self) -> Position:
        """The permutation of a candidate that is nearly a permuted copy, else what `outward_start` finds."""
        found = recognise_copy(self.pair, self._edges)
        if found is None and self._has_couplings and is_exact_copy(self.pair):
            found = self._stumbled_upon()
        if found is not None:
            return Position(self.pair.spec, found)
        return outward_start(self.pair, self._edges)

    def _stumbled_upon(self) -> Permutation | None:
        """The permutation of an exact copy, if a climb from somewhere ends at it."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(MOST_CLIMBS):
            start = random_permutation(self.pair.spec, generator)
            climb = self.climb(Position(self.pair.spec, start, is_near=False), generator, MOST_SWEEPS)
            if are_alike(self.pair, climb.objective, SAME):
                return climb.permutation
        return None

    def climb(self, position: Position, generator: torch.Generator, max_sweeps: int) -> Climb:
        """The local optimum above ``position``, or where ``max_sweeps`` sweeps lead. Moves ``position``."""
        moved, sweeps = True, 0
        while moved and sweeps < max_sweeps:
            moved, sweeps = self._sweep(position, generator), sweeps + 1
        permutation = position.permutation
        return Climb(permutation, self.pair.objective(permutation), sweeps, not moved)

    def _sweep(self, position: Position, generator: torch.Generator) -> bool:
        order = torch.randperm(len(self._roots), generator=generator)
        return sum(self._roots[int(k)].visit(position) for k in order) > 0


class _Root:
    """A group that is no family, and what it depended on when it was last found to be at its best."""

    def __init__(self, pair: Pair, name: str, edges: Sequence[MoverEdge], tolerance: float) -> None:
        joint = is_joint(pair.spec, name, edges)
        self._is_exact = not joint
        self._movers = {mover: None for own, edge in edges for mover in (own, *(m for _, m in edge.others))}
        self._settled: dict[Mover, Tensor] | None = None
        self._solver: Solver = (
            JointGroup(pair, name, edges, tolerance)
            if joint
            else PlainGroup(pair, name, [edge for _, edge in edges], tolerance)
        )

    def visit(self, position: Position) -> bool:
        """Whether the group moved. Costs nothing if nothing that it depends on has moved since it was settled."""
        if self._is_settled(position):
            return False
        changes = self._solver.solve(position)
        position.move(changes)
        if not changes or self._is_exact:
            self._settled = {mover: position.index(mover) for mover in self._movers}
        return bool(changes)

    def _is_settled(self, position: Position) -> bool:
        return self._settled is not None and all(
            position.index(mover) is index for mover, index in self._settled.items()
        )


def is_joint(spec: PermutationSpec, root: str, edges: Sequence[MoverEdge]) -> bool:
    """Whether a visit to ``root`` is more than one linear assignment: it has families, or meets itself on a tensor."""
    return root in spec.parents.values() or any(meets_itself(edge) for _, edge in edges)

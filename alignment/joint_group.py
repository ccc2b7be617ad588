"""One visit to a group that is no linear assignment: one with families, or one that meets itself on a tensor."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from alignment.columns import candidate_rows, reference_rows
from alignment.families import Coupling, Evidence, joint_assignment
from alignment.flat import Edge, Mover, MoverEdge, Position
from alignment.pair import Pair
from alignment.similarity import Similarity

STEPS = (1.0, 0.5)
"""How much of the evidence from tensors that hold the group twice: the gradient, then the mean of its two sides."""


class JointGroup:
    """What is remembered of one group and its families between visits.

    Every proposal is judged by the objective itself, so that a visit never loses even where it can only guess: a
    tensor that holds the group twice makes a quadratic assignment, of which one linear step is solved.
    """

    def __init__(self, pair: Pair, group: str, edges: Sequence[MoverEdge], tolerance: float) -> None:
        self.pair, self.group, self.tolerance = pair, group, tolerance
        self.families = [family for family, parent in pair.spec.parents.items() if parent == group]
        self.blocks = [block for block in pair.blocks if group in block.groups]
        self._couplings = [(mover, edge) for mover, edge in edges if len(mover) > 2]
        self._twice = self._similarity([edge for _, edge in edges if meets_itself(edge)])
        once = [(mover, edge) for mover, edge in edges if not meets_itself(edge)]
        self._parent = self._similarity([edge for mover, edge in once if len(mover) == 1])
        self._families = {
            family: self._similarity([edge for mover, edge in once if mover == (group, family)], family)
            for family in self.families
        }

    def solve(self, position: Position) -> dict[str, Tensor]:
        """What should change of the group and its families, if it gains more than the tolerance; else nothing."""
        present = self.pair.value(self.blocks, position.permutation)
        for step in STEPS if self._twice.edges else STEPS[:1]:
            changes = self._propose(position, step)
            proposed = self.pair.value(self.blocks, {**position.permutation, **changes})
            if proposed - present > self.tolerance * max(abs(proposed), abs(present)):
                return changes
        return {}

    def proposal(self, position: Position) -> dict[str, Tensor]:
        """What its evidence says is best, whether or not that gains."""
        return self._propose(position, 1.0)

    def _propose(self, position: Position, step: float) -> dict[str, Tensor]:
        parent = self._parent.matrix(position) + step * self._twice.matrix(position)
        families = {family: self._within(family, position) for family in self.families}
        couplings = [self._coupling(mover, edge, position) for mover, edge in self._couplings]
        rows = {family: position.permutation[family] for family in self.families}
        evidence = Evidence(parent, families, couplings)
        best, below = joint_assignment(evidence, position.permutation[self.group], rows)
        return {self.group: best, **below}

    def _similarity(self, edges: Sequence[Edge], family: str | None = None) -> Similarity:
        groups = self.pair.spec.groups
        return Similarity(self.pair, edges, groups[self.group] * (groups[family] if family else 1))

    def _within(self, family: str, position: Position) -> Tensor:
        sizes = (self.pair.spec.groups[self.group], self.pair.spec.groups[family])
        return self._families[family].matrix(position).reshape(sizes * 2)

    def _coupling(self, mover: Mover, edge: Edge, position: Position) -> Coupling:
        sizes = [self.pair.spec.groups[name] for name in mover]
        indices: Mapping[Mover, Tensor] = {other: position.index(other) for _, other in edge.others}
        reference = reference_rows(self.pair, edge, None).reshape(*sizes, -1)
        return Coupling(mover[1:], reference, candidate_rows(self.pair, edge, indices, None).reshape(*sizes, -1))


def meets_itself(edge: Edge) -> bool:
    """Whether the edge's mover is also on another axis of its block."""
    return any(mover == edge.flat.movers[edge.axis] for _, mover in edge.others)

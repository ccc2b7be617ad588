"""One visit to a group without families that meets itself on no tensor: a linear assignment, solved exactly."""

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor

from alignment.assignment import assign
from alignment.certificate import certain_assignment
from alignment.columns import candidate_rows, reference_rows, runs
from alignment.flat import Edge, Position
from alignment.pair import Pair
from alignment.similarity import Similarity

OBVIOUS = 1e-4
"""A gain above this share of the similarity is no rounding error of fp32."""


class PlainGroup:
    """What is remembered of one group between visits."""

    def __init__(self, pair: Pair, group: str, edges: Sequence[Edge], tolerance: float) -> None:
        self.pair, self.group, self.edges, self.tolerance = pair, group, edges, tolerance
        self._similarity = Similarity(pair, edges, pair.spec.groups[group])

    def solve(self, position: Position) -> dict[str, Tensor]:
        """The group's best permutation if it gains more than the tolerance, else nothing."""
        now = position.permutation[self.group]
        if position.is_near and not self._similarity.is_nearly_current(position):
            certain = certain_assignment(self.pair, self.edges, position)
            if certain is not None:
                return self._if_it_gains(position, certain)
        similarity = self._similarity.matrix(position)
        best = assign(similarity, now, self.pair.scratch(len(now), torch.float64))
        claimed = _values(similarity, best) - _values(similarity, now)
        scale = _values(similarity, best).abs().sum().item()
        gain = claimed.sum().item()
        if gain <= self.tolerance * scale:
            return {}
        return {self.group: best} if gain > OBVIOUS * scale else self._if_it_gains(position, best)

    def _if_it_gains(self, position: Position, best: Tensor) -> dict[str, Tensor]:
        return {self.group: best} if self._gain(position, best) > 0 else {}

    def _gain(self, position: Position, best: Tensor) -> float:
        """What ``best`` gains over the group's present permutation, in fp64, from the units that differ."""
        now = position.permutation[self.group]
        moved = (best != now).nonzero()[:, 0]
        if not len(moved):
            return 0.0
        return fsum(self._gain_on(edge, position, moved, best[moved], now[moved]) for edge in self.edges)

    def _gain_on(self, edge: Edge, position: Position, moved: Tensor, after: Tensor, before: Tensor) -> float:
        indices = {mover: position.index(mover) for _, mover in edge.others}
        total = 0.0
        for run in runs(edge):
            columns = candidate_rows(self.pair, edge, indices, run)
            change = columns[after].double() - columns[before].double()
            total += (reference_rows(self.pair, edge, run)[moved].double() * change).sum().item()
        return total


def _values(similarity: Tensor, assignment: Tensor) -> Tensor:
    return similarity.gather(1, assignment[:, None])[:, 0].double()

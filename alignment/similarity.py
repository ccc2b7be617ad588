"""The cost matrices of weight matching, kept current by the columns that moved."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.columns import candidate_rows, reference_rows, runs
from alignment.flat import Edge, Mover, Position
from alignment.pair import Pair


class Similarity:
    """A[i, j] = Σ over a mover's edges of ⟨W_ref[i], W_cand[j]⟩, all *other* axes permuted (Git Re-Basin, section 3.2).

    Columns count the candidate's own units, so that a mover's own moves leave its A as it is; and when k of a
    neighbour's n units move, A changes by a product of k columns.
    """

    def __init__(self, pair: Pair, edges: Sequence[Edge], units: int) -> None:
        self.pair, self.edges, self.units = pair, edges, units
        self._matrix: Tensor | None = None
        self._seen: dict[Mover, Tensor] = {}

    def is_nearly_current(self, position: Position) -> bool:
        """Whether an update costs less than half as much as A anew."""
        if self._matrix is None:
            return False
        moved = sum(edge.columns * self._share_moved(edge, position) for edge in self.edges)
        return 2 * moved < sum(edge.columns for edge in self.edges)

    def matrix(self, position: Position) -> Float[Tensor, "units units"]:
        """A at ``position``. Overwritten by the next call."""
        if self._matrix is None or not self.is_nearly_current(position):
            return self._anew(position)
        for edge in self.edges:
            where = self._moved(edge, position)
            if where is None or len(where):
                self._add(self._matrix, edge, position, where)
        self._remember(position)
        return self._matrix

    def _anew(self, position: Position) -> Tensor:
        self._seen = {}
        if self._matrix is None:
            self._matrix = torch.empty(self.units, self.units, dtype=self.pair.dtype)
        self._matrix.zero_()
        for edge in self.edges:
            self._add(self._matrix, edge, position, None)
        self._remember(position)
        return self._matrix

    def _add(self, matrix: Tensor, edge: Edge, position: Position, where: Tensor | None) -> None:
        now = {mover: position.index(mover) for _, mover in edge.others}
        for run in runs(edge, where):
            given = candidate_rows(self.pair, edge, now, run)
            if self._seen:
                given = given - candidate_rows(self.pair, edge, self._seen, run)
            matrix.addmm_(reference_rows(self.pair, edge, run), given.T)

    def _remember(self, position: Position) -> None:
        self._seen = {mover: position.index(mover) for edge in self.edges for _, mover in edge.others}

    def _share_moved(self, edge: Edge, position: Position) -> float:
        where = self._moved(edge, position)
        return 1.0 if where is None else len(where) / edge.flat.shape[edge.others[0][0]] if edge.others else 0.0

    def _moved(self, edge: Edge, position: Position) -> Tensor | None:
        """The positions on the first axis beside the edge that must be brought up to date; None: all of them."""
        moved = [(self._seen[mover] != position.index(mover)).nonzero()[:, 0] for _, mover in edge.others]
        if any(len(where) for where in moved[1:]):
            return None
        return moved[0] if moved else torch.empty(0, dtype=torch.int64)

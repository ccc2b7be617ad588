"""An assignment proved to be the best one from a sixteenth of the columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment.columns import candidate_rows, is_everything, reference_rows, runs
from alignment.flat import Edge, Position
from alignment.pair import Pair
from alignment.permutation import identity_permutation

KEEP_ONE_IN = 16
FEW_COLUMNS = 256
MARGIN = 1e-4


def certain_assignment(
    pair: Pair, edges: Sequence[Edge], position: Position, keep_one_in: int = KEEP_ONE_IN
) -> Tensor | None:
    """The assignment that maximises Σ A[i, q(i)], or None where too few columns were seen to prove one.

    max Σ A[i, q(i)] is min Σ ‖R_i − C_q(i)‖², and a distance over some columns never exceeds that over all. So if q
    takes each unit to its nearest over some columns, and the runner-up over *some* is still no nearer than q(i) over
    *all*, no assignment beats q. True of networks that differ little but for a permutation.

    Cost: a sixteenth of a matrix product and, where q is a permutation, one pass over the tensors.
    """
    if not edges:
        return None
    distance, scale = _partial_distances(pair, edges, position, keep_one_in)
    nearest = distance.argmin(1)
    if not torch.equal(nearest.sort().values, torch.arange(len(nearest))):
        return None
    taken = _distances(pair, edges, position, nearest)
    distance.scatter_(1, nearest[:, None], torch.inf)
    return nearest if bool((distance.amin(1) >= taken + MARGIN * scale).all()) else None


def nearest_neighbours(pair: Pair, edges: Sequence[Edge], keep_one_in: int, few: int = FEW_COLUMNS) -> Tensor:
    """At most min_j ‖R_i − C_j‖² over j ≠ i, for each unit i of the reference, all else where it is.

    ``keep_one_in`` columns one is looked at, but no fewer than ``few`` of a tensor.
    """
    home = Position(pair.spec, identity_permutation(pair.spec))
    distance, scale = _partial_distances(pair, edges, home, keep_one_in, few)
    return distance.fill_diagonal_(torch.inf).amin(1) - MARGIN * scale


def _partial_distances(
    pair: Pair, edges: Sequence[Edge], position: Position, keep_one_in: int, few: int = FEW_COLUMNS
) -> tuple[Tensor, Tensor]:
    """‖R_i − C_j‖² over the columns kept, and the sizes that its rounding errors are relative to."""
    units = edges[0].flat.shape[edges[0].axis]
    product = pair.scratch(units, pair.dtype).zero_()
    wanted, given = torch.zeros(2, units, dtype=pair.dtype)
    for edge in edges:
        indices = {mover: position.index(mover) for _, mover in edge.others}
        stride = max(1, min(keep_one_in, edge.columns // few))
        for run in runs(edge, _sample(edge, stride)):
            rows = reference_rows(pair, edge, run)
            columns = candidate_rows(pair, edge, indices, run)
            if not edge.others:
                rows, columns = rows[:, ::stride], columns[:, ::stride]
            product.addmm_(rows, columns.T)
            wanted += rows.square().sum(1)
            given += columns.square().sum(1)
    return product.mul_(-2).add_(wanted[:, None]).add_(given), wanted + given.max()


def _sample(edge: Edge, stride: int) -> Tensor | None:
    if not edge.others or stride == 1:
        return None
    return torch.arange(0, edge.flat.shape[edge.others[0][0]], stride)


def _distances(pair: Pair, edges: Sequence[Edge], position: Position, assignment: Tensor) -> Tensor:
    total = torch.zeros(len(assignment), dtype=pair.dtype)
    for edge in edges:
        indices = {mover: position.index(mover) for _, mover in edge.others}
        for run in runs(edge):
            columns = candidate_rows(pair, edge, indices, run)
            if not is_everything(assignment, len(columns)):
                columns = columns.index_select(0, assignment)
            difference = columns - reference_rows(pair, edge, run)
            total += difference.square_().sum(1)
    return total

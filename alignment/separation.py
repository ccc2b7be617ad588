"""Units proved to be where they were, at the price of one look at the tensors: what a shared start comes down to."""

from math import fsum, isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from alignment.ascent import is_joint
from alignment.certificate import nearest_neighbours
from alignment.flat import edges_of, flatten
from alignment.matching import Matching
from alignment.pair import CHUNK_ELEMENTS, Pair, dot
from alignment.permutation import identity_permutation
from alignment.spec import PermutationSpec, State
from alignment.validate import check_finite, check_fit

FAR = 0.4
"""A network that has moved by no more than this share of the reference's norm has a cosine of √(1 − 0.4²) = 0.917 or
more to it: it is a copy, which has 0.9 or more."""
KEEP_ONE_IN = (64, 8, 1)
"""One column in so many is looked at: at first, and as long as that proves too little."""
FEW_COLUMNS = 32


class Separation:
    """How far apart the units of one reference lie: what tells that those of a network near it have not changed places.

    With all other groups held, the best assignment of a group is the one of least Σ ‖R_i − C_q(i)‖². Let no unit have
    moved by more than half the way to its nearest neighbour in the reference, ‖R_i − C_i‖ ≤ ½ min_j ‖R_i − R_j‖. Then
    ‖R_i − C_j‖ ≥ ‖R_i − R_j‖ − ‖R_j − C_j‖ ≥ ‖R_j − C_j‖ for all i ≠ j: no assignment beats the identity. Where that
    holds of every group, weight matching (arXiv 2209.04836, Algorithm 1) would begin and end there.

    The right side belongs to the reference alone, is bounded from below by distances over some columns, and serves
    every candidate. The left side is one pass over the candidate's tensors, which gives the objective too.
    """

    @torch.no_grad()
    def __init__(self, spec: PermutationSpec, reference: State) -> None:
        """Raises `StateError` for a reference that does not fit ``spec`` or is not finite."""
        check_fit(spec, reference, reference)
        check_finite(reference, "reference")
        self.spec, self.reference = spec, reference
        self._pair = Pair(spec, reference, reference)
        flats = [flatten(block) for block in self._pair.blocks]
        edges = {root: list(edges_of(flats, root)) for root in self._pair.roots}
        self._is_plain = not any(is_joint(spec, root, found) for root, found in edges.items())
        self._edges = {root: [edge for _, edge in found] for root, found in edges.items() if found}
        self._flats = flats
        self._square = fsum(dot(reference[name], reference[name]) for name in self._pair.scored)
        self._quarters: dict[tuple[str, int], Tensor] = {}

    @torch.no_grad()
    def at_home(self, candidate: State) -> Matching | None:
        """What `match_weights` finds of ``candidate``, where it is proved that nothing moves; else None.

        The objective is good to the rounding of fp32. Raises `StateError` for a candidate that does not fit.
        """
        check_fit(self.spec, self.reference, candidate)
        if not self._is_plain or any(candidate[name].is_complex() for name in self.spec.axes):
            return None
        moved = {root: torch.zeros(self.spec.groups[root], dtype=self._pair.dtype) for root in self._edges}
        still = self._pair.still
        changes = [self._change(self.reference[name].reshape(-1), candidate[name].reshape(-1)) for name in still]
        for flat in self._flats:
            name = flat.block.tensor
            change = self._change(flat.of(self.reference[name]), flat.of(candidate[name]))
            for axis, mover in enumerate(flat.movers):
                if mover is not None:
                    moved[mover[0]] += change.along(axis)
            if name not in still:
                changes.append(change)
        squared = sum(change.squared for change in changes)
        # What is not finite, or too large to be squared, is for the long way to judge.
        if not isfinite(squared) or squared > FAR**2 * self._square:
            return None
        scored = set(self._pair.scored)
        check_finite({name: tensor for name, tensor in candidate.items() if name not in scored}, "candidate")
        if not all(self._holds(root, squares) for root, squares in moved.items()):
            return None
        objective = self._square + fsum(change.inner for change in changes)
        return Matching(identity_permutation(self.spec), objective, 0.0, 1, True)

    def _change(self, reference: Tensor, candidate: Tensor) -> "_Change":
        """Looks at each number once, a few hundred KB at a time."""
        dtype, inner = self._pair.dtype, 0.0
        rows = torch.zeros(len(reference), dtype=dtype)
        columns = torch.zeros(reference.shape[1:], dtype=dtype)
        step = max(1, CHUNK_ELEMENTS * len(reference) // max(1, reference.numel()))
        for start in range(0, len(reference), step):
            before = reference[start : start + step].to("cpu", dtype)
            change = candidate[start : start + step].to("cpu", dtype) - before
            inner += torch.dot(before.reshape(-1), change.reshape(-1)).item()
            squares = change.square_()
            rows[start : start + step] = squares.flatten(1).sum(1) if squares.ndim > 1 else squares
            columns += squares.sum(0)
        return _Change(inner, rows, columns)

    def _holds(self, root: str, moved: Tensor) -> bool:
        return any(bool((moved <= self._bound(root, keep_one_in)).all()) for keep_one_in in KEEP_ONE_IN)

    def _bound(self, root: str, keep_one_in: int) -> Tensor:
        """At most ¼ min_j ‖R_i − R_j‖²; seen once."""
        if (root, keep_one_in) not in self._quarters:
            nearest = nearest_neighbours(self._pair, self._edges[root], keep_one_in, FEW_COLUMNS)
            self._quarters[root, keep_one_in] = nearest / 4
        return self._quarters[root, keep_one_in]


class _Change(NamedTuple):
    """⟨R, C − R⟩ of one tensor, and Σ (C − R)² along its first axis and across it."""

    inner: float
    rows: Tensor
    columns: Tensor

    @property
    def squared(self) -> float:
        """‖C − R‖²."""
        return self.rows.sum().item()

    def along(self, axis: int) -> Tensor:
        """‖C_i − R_i‖² of each position i on ``axis``."""
        others = [other for other in range(self.columns.ndim) if other != axis - 1]
        if axis == 0:
            return self.rows
        return self.columns.sum(others) if others else self.columns

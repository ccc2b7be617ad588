"""Weight matching: Algorithm 1 of Git Re-Basin (arXiv 2209.04836, section 3.2)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from alignment.matching import Matching
from alignment.permutation import (
    Permutation,
    check_permutation,
    identity_permutation,
    permute_block,
    random_permutation,
)
from alignment.spec import Block, PermutationSpec, State
from alignment.validate import check_pair


def match_weights(
    spec: PermutationSpec,
    reference: State,
    candidate: State,
    start: Permutation | None = None,
    generator: torch.Generator | None = None,
    restarts: int = 1,
    tolerance: float = 1e-7,
    max_sweeps: int = 100,
) -> Matching:
    """The permutation of ``candidate`` nearest to ``reference``, found by coordinate ascent over the groups.

    Each sweep visits the groups in a fresh random order and solves, for one group P with all others held,
    max_P Σ ⟨W_ref, P(W_cand)⟩, a linear assignment. It ends after a sweep that gains nothing. The first of
    ``restarts`` begins at ``start`` (default: the identity), the others at random permutations; the best is
    kept.

    Raises `StateError` for states that do not fit or are not finite, `SpecError` for a ``start`` that is no
    permutation of the spec.
    """
    check_pair(spec, reference, candidate)
    generator = generator or torch.Generator().manual_seed(0)
    ascent = _Ascent(spec, reference, candidate, generator, tolerance, max_sweeps)
    identity = identity_permutation(spec)
    first = dict(start) if start is not None else identity
    check_permutation(spec, first)
    baseline = ascent.objective(identity)
    found = [ascent.climb(first if k == 0 else random_permutation(spec, generator)) for k in range(restarts)]
    best = max(found, key=lambda outcome: outcome.objective)
    return Matching(best.permutation, best.objective, best.objective - baseline, best.sweeps, best.converged)


@dataclass(frozen=True)
class _Outcome:
    permutation: dict[str, Tensor]
    objective: float
    sweeps: int
    converged: bool


@dataclass(frozen=True)
class _Ascent:
    spec: PermutationSpec
    reference: State
    candidate: State
    generator: torch.Generator
    tolerance: float
    max_sweeps: int

    def climb(self, start: Permutation) -> _Outcome:
        permutation = {name: index.cpu().clone() for name, index in start.items()}
        groups = list(self.spec.groups)
        for sweep in range(1, self.max_sweeps + 1):
            order: list[int] = torch.randperm(len(groups), generator=self.generator).tolist()
            if sum(self._visit(groups[k], permutation) for k in order) == 0:
                return _Outcome(permutation, self.objective(permutation), sweep, True)
        return _Outcome(permutation, self.objective(permutation), self.max_sweeps, False)

    def objective(self, permutation: Permutation) -> float:
        still = [
            _dot(self.reference[name], self.candidate[name])
            for name in self.spec.axes
            if name not in self.spec.moving and self._is_scored(name)
        ]
        moving = [self._value(block, permutation) for block in self._blocks(self.spec.blocks)]
        return sum(still) + sum(moving)

    def _blocks(self, blocks: Iterable[Block]) -> list[Block]:
        return [block for block in blocks if self._is_scored(block.tensor)]

    def _is_scored(self, name: str) -> bool:
        return name not in self.spec.buffers and self.reference[name].is_floating_point()

    def _value(self, block: Block, permutation: Permutation) -> float:
        return _dot(
            block.of(self.reference[block.tensor]),
            permute_block(block, permutation, self.candidate[block.tensor]),
        )

    def _visit(self, group: str, permutation: dict[str, Tensor]) -> bool:
        """Whether ``group`` moved, and with it the rows of its families."""
        blocks = [block for block in self._blocks(self.spec.blocks) if group in block.groups]
        gain = self._similarity(blocks, group, permutation)
        best = torch.stack([_assign(rows) for rows in gain])
        now = torch.arange(gain.shape[-1])
        moves = gain.gather(-1, best[..., None])[..., 0] - gain[..., now, now]
        if moves.double().sum() <= self.tolerance * gain.abs().amax(-1).double().sum():
            return False
        moved = self._moved(group, best, permutation)
        before = sum(self._value(block, permutation) for block in blocks)
        if sum(self._value(block, moved) for block in blocks) <= before:
            return False
        permutation.update(moved)
        return True

    def _moved(self, group: str, best: Tensor, permutation: Permutation) -> dict[str, Tensor]:
        moved = dict(permutation)
        if group in self.spec.parents:
            moved[group] = permutation[group].gather(-1, best)
            return moved
        riders = [family for family, parent in self.spec.parents.items() if parent == group]
        for name in (group, *riders):
            moved[name] = permutation[name][best[0]]
        return moved

    def _similarity(self, blocks: list[Block], group: str, permutation: Permutation) -> Tensor:
        """A[k, i, j]: what slot i gains from what slot j holds now; k runs over the parent's units."""
        units = self.spec.groups[group]
        parent = self.spec.parents.get(group)
        total = torch.zeros(self.spec.groups[parent] if parent else 1, units, units)
        for block in blocks:
            reference = block.of(self.reference[block.tensor])
            candidate = permute_block(block, permutation, self.candidate[block.tensor])
            for axis in (axis for axis, name in enumerate(block.groups) if name == group):
                total = total + _product(reference, candidate, axis, block.parents[axis])
        return total


def _product(reference: Tensor, candidate: Tensor, axis: int, parent: int | None) -> Tensor:
    rows, columns = (_rows(_as_float(tensor), axis, parent) for tensor in (reference, candidate))
    return rows @ columns.mT


def _rows(tensor: Tensor, axis: int, parent: int | None) -> Tensor:
    if parent is None:
        return tensor.movedim(axis, 0).flatten(1)[None] if tensor.ndim > 1 else tensor[None, :, None]
    front = tensor.movedim((parent, axis), (0, 1))
    return front.reshape(*front.shape[:2], -1)


def _as_float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _dot(left: Tensor, right: Tensor) -> float:
    return torch.dot(left.reshape(-1).double(), right.reshape(-1).double()).item()


def _assign(gain: Tensor) -> Tensor:
    return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])

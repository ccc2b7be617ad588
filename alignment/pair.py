"""Two states under comparison, and the objective that says how well a permutation brings one to the other."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import fsum

import torch
from torch import Tensor

from alignment.flat import flat_index, flatten
from alignment.permutation import Permutation, identity_permutation
from alignment.precision import comparable
from alignment.spec import Block, PermutationSpec, State

CHUNK_ELEMENTS = 1 << 16
# Between these, sums of squares and of products of the greatest weights are fp32's own.
LEAST, MOST = 1e-12, 1e12


@dataclass(frozen=True)
class Pair:
    """A reference and a candidate that fit ``spec``."""

    spec: PermutationSpec
    reference: State
    candidate: State

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """The tensors whose likeness is evidence: floating ones that are no buffers."""
        return tuple(
            name
            for name in self.spec.axes
            if name not in self.spec.buffers
            and self.reference[name].is_floating_point()
            and self.reference[name].layout == torch.strided
        )

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of `scored` tensors in which something moves."""
        scored = set(self.scored)
        return tuple(block for block in self.spec.blocks if block.tensor in scored)

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The groups that are no families, in the order of the spec."""
        return tuple(name for name in self.spec.groups if name not in self.spec.parents)

    @cached_property
    def is_identical(self) -> bool:
        """Whether the scored tensors are equal; then the identity is best, by Cauchy and Schwarz."""
        tensors = ((comparable(self.reference[name]), comparable(self.candidate[name])) for name in self.scored)
        return all(
            left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)
            for left, right in tensors
        )

    @cached_property
    def dtype(self) -> torch.dtype:
        """What similarities are computed in: fp64 if a scored tensor is, or fp32 has no room for squares; else fp32."""
        tensors = [state[name] for state in (self.reference, self.candidate) for name in self.scored]
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            return torch.float64
        largest = max((comparable(tensor).abs().amax().item() for tensor in tensors if tensor.numel()), default=1.0)
        return torch.float32 if largest == 0 or LEAST < largest < MOST else torch.float64

    def scratch(self, units: int, dtype: torch.dtype) -> Tensor:
        """A square matrix to be filled and forgotten: the next call hands out the same memory.

        Allocated anew for each visit, the great matrices leave holes that double the memory of a long ascent.
        """
        return self._buffer.view(dtype)[: units * units].view(units, units)

    @cached_property
    def _buffer(self) -> Tensor:
        groups, parents = self.spec.groups, self.spec.parents
        largest = max(units * (groups[parents[name]] if name in parents else 1) for name, units in groups.items())
        return torch.empty(largest**2, dtype=torch.float64)

    def objective(self, permutation: Permutation) -> float:
        """Σ ⟨W_ref, P(W_cand)⟩ over the scored tensors, in fp64."""
        still = fsum(dot(self.reference[name], self.candidate[name]) for name in self.still)
        unmoved = fsum(
            dot(block.of(self.reference[block.tensor]), block.of(self.candidate[block.tensor]))
            for block in self.blocks
            if block.tensor in self.still
        )
        return still - unmoved + self.value(self.blocks, permutation)

    @cached_property
    def baseline(self) -> float:
        """The objective of the identity."""
        return self.objective(identity_permutation(self.spec))

    def value(self, blocks: Iterable[Block], permutation: Permutation) -> float:
        """The part of the objective that lies in ``blocks``. A few MB at a time."""
        return fsum(part for block in blocks for part in self._parts(block, permutation))

    def _parts(self, block: Block, permutation: Permutation) -> Iterator[float]:
        flat = flatten(block)
        moving = [(axis, flat_index(mover, permutation)) for axis, mover in enumerate(flat.movers) if mover]
        first, positions = moving[0]
        wanted, given = flat.of(self.reference[block.tensor]).cpu(), flat.of(self.candidate[block.tensor]).cpu()
        step = max(1, CHUNK_ELEMENTS * len(positions) // max(1, wanted.numel()))
        for start in range(0, len(positions), step):
            run = torch.arange(start, min(start + step, len(positions)))
            chunk = given.index_select(first, positions[run])
            for axis, index in moving[1:]:
                chunk = chunk.index_select(axis, index)
            yield dot(wanted.index_select(first, run), chunk)

    @cached_property
    def still(self) -> frozenset[str]:
        """The scored tensors that blocks do not cover, or not wholly."""
        covered: Counter[str] = Counter()
        for block in self.blocks:
            covered[block.tensor] += torch.Size(block.view).numel()
        return frozenset(name for name in self.scored if covered[name] < self.reference[name].numel())


def dot(left: Tensor, right: Tensor) -> float:
    """⟨left, right⟩ accumulated in fp64, a bounded number of elements at a time."""
    chunks: Iterable[tuple[Tensor, Tensor]] = zip(_chunks(left), _chunks(right), strict=True)
    return fsum(torch.dot(a.double(), b.double()).item() for a, b in chunks)


def _chunks(tensor: Tensor) -> Iterable[Tensor]:
    flat = tensor.cpu().reshape(-1)
    return (flat[k : k + CHUNK_ELEMENTS] for k in range(0, flat.numel(), CHUNK_ELEMENTS))

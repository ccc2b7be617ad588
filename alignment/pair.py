"""Two states under comparison, and the objective that says how well a permutation brings one to the other."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import fsum

import torch
from torch import Tensor

from alignment.permutation import Permutation, identity_permutation, permute_block
from alignment.spec import Block, PermutationSpec, State

CHUNK_ELEMENTS = 1 << 20


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
            if name not in self.spec.buffers and self.reference[name].is_floating_point()
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
        tensors = ((self.reference[name], self.candidate[name]) for name in self.scored)
        return all(
            left.dtype == right.dtype and left.device == right.device and torch.equal(left, right)
            for left, right in tensors
        )

    @cached_property
    def dtype(self) -> torch.dtype:
        """What similarities are computed in: fp64 if a scored tensor is, else fp32."""
        states = (self.reference, self.candidate)
        wide = any(state[name].dtype == torch.float64 for state in states for name in self.scored)
        return torch.float64 if wide else torch.float32

    def objective(self, permutation: Permutation) -> float:
        """Σ ⟨W_ref, P(W_cand)⟩ over the scored tensors, in fp64."""
        return fsum(dot(self.reference[name], self._moved(name, permutation)) for name in self.scored)

    @cached_property
    def baseline(self) -> float:
        """The objective of the identity."""
        return self.objective(identity_permutation(self.spec))

    def value(self, blocks: Iterable[Block], permutation: Permutation) -> float:
        """The part of the objective that lies in ``blocks``."""
        return fsum(
            dot(
                block.of(self.reference[block.tensor]),
                permute_block(block, permutation, self.candidate[block.tensor]),
            )
            for block in blocks
        )

    def _moved(self, name: str, permutation: Permutation) -> Tensor:
        tensor = self.candidate[name]
        blocks = [block for block in self.blocks if block.tensor == name]
        if blocks:
            tensor = tensor.clone()
        for block in blocks:
            target = tensor[block.slices]
            target.copy_(permute_block(block, permutation, self.candidate[name]).reshape(target.shape))
        return tensor


def dot(left: Tensor, right: Tensor) -> float:
    """⟨left, right⟩ accumulated in fp64, a bounded number of elements at a time."""
    chunks: Iterable[tuple[Tensor, Tensor]] = zip(_chunks(left), _chunks(right), strict=True)
    return fsum(torch.dot(a.double(), b.double()).item() for a, b in chunks)


def _chunks(tensor: Tensor) -> Iterable[Tensor]:
    flat = tensor.cpu().reshape(-1)
    return (flat[k : k + CHUNK_ELEMENTS] for k in range(0, flat.numel(), CHUNK_ELEMENTS))

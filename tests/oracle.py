"""Algorithm 1 of Git Re-Basin as plainly as it can be written: every cost anew, same visiting order."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from alignment.permutation import Permutation, identity_permutation, permute, permute_block
from alignment.spec import Block, PermutationSpec, State


def objective(spec: PermutationSpec, reference: State, candidate: State, permutation: Permutation) -> float:
    moved = permute(spec, permutation, candidate)
    return sum(
        torch.sum(reference[name].double() * moved[name].double()).item()
        for name in spec.axes
        if name not in spec.buffers and reference[name].is_floating_point()
    )


def scored_blocks(spec: PermutationSpec, group: str) -> list[Block]:
    return [block for block in spec.blocks if group in block.groups and block.tensor not in spec.buffers]


def similarity(
    spec: PermutationSpec,
    reference: State,
    candidate: State,
    permutation: Permutation,
    group: str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A[i, j]: what position i gains from the candidate's unit j, all other groups held."""
    total = torch.zeros(spec.groups[group], spec.groups[group], dtype=dtype)
    for block in scored_blocks(spec, group):
        axis = block.groups.index(group)
        wanted = block.of(reference[block.tensor]).to(dtype)
        given = permute_block(block, permutation, candidate[block.tensor].to(dtype), skip=axis)
        total += unit_rows(wanted, axis) @ unit_rows(given, axis).T
    return total


def unit_rows(tensor: Tensor, axis: int) -> Tensor:
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def assign(gain: Tensor) -> Tensor:
    return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])


def algorithm_1(
    spec: PermutationSpec,
    reference: State,
    candidate: State,
    generator: torch.Generator,
    max_sweeps: int = 100,
    dtype: torch.dtype = torch.float64,
) -> tuple[dict[str, Tensor], int]:
    """The permutation and the number of sweeps, for specs without families whose groups never meet themselves."""
    permutation = identity_permutation(spec)
    groups = list(spec.groups)
    for sweep in range(1, max_sweeps + 1):
        moved = False
        for k in torch.randperm(len(groups), generator=generator):
            group = groups[int(k)]
            gain = similarity(spec, reference, candidate, permutation, group, dtype)
            best = assign(gain)
            if total(gain, best) > total(gain, permutation[group]) + 1e-7 * gain.abs().amax(1).sum().item():
                permutation[group], moved = best, True
        if not moved:
            return permutation, sweep
    return permutation, max_sweeps


def total(gain: Tensor, index: Tensor) -> float:
    return gain[torch.arange(len(index)), index].sum().item()

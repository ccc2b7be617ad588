"""Proves a permutation spec: permutes every group at random and compares outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from alignment.difference import difference
from alignment.errors import SpecError
from alignment.permutation import draws_that_tell, permute, random_permutation
from alignment.spec import PermutationSpec
from alignment.tracing.bench import own_precision


def check_spec(
    model: nn.Module,
    spec: PermutationSpec,
    inputs: Sequence[Any],
    *,
    generator: torch.Generator | None = None,
    trials: int = 3,
    tolerance: float | None = None,
) -> float:
    """The greatest |output difference| that ``trials`` random permutations of all groups of ``spec`` make.

    More are drawn where a group is so small that they might all leave it as it is, up to 14 for one of two units. The
    network runs in evaluation mode and its own precision (half precision in fp32), and is left as it was. Cost: a
    forward pass for each, one more, and a copy of the network. Raises `SpecError` where the difference exceeds
    ``tolerance`` times the largest output: 1e-9 in fp64 and 1e-4 otherwise, unless given.
    """
    generator = generator or torch.Generator().manual_seed(0)
    worst = 0.0
    with own_precision(model, inputs) as bench:
        state, before = bench.state(), bench.outputs(bench.inputs)
        for _ in range(trials_needed(spec, trials)):
            bench.load(permute(spec, random_permutation(spec, generator), state))
            found = difference(before, bench.outputs(bench.inputs))
            worst = max(worst, found.absolute)
            allowed = bench.tolerance if tolerance is None else tolerance
            if not found.relative <= allowed:
                raise SpecError(
                    f"the spec changes what the network computes: outputs differ by {found.absolute:.3g}, "
                    f"{found.relative:.3g} of the largest, allowed {allowed:.3g}; derive it anew with derive_spec"
                )
    return worst


def trials_needed(spec: PermutationSpec, trials: int) -> int:
    """How many permutations `check_spec` draws where it is asked for ``trials``."""
    return max(trials, draws_that_tell(spec, spec.groups)) if trials else 0

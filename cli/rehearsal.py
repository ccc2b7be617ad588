"""What a rehearsal compares."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from strategies.errors import OperatorError
from strategies.protocol import State

# What recalibration renews after a merge.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MOST_CHANGE = 1e-3


class RehearsalError(OperatorError):
    """The rehearsal did not come out as it must."""

    exit_code = 33


def generator(seed: int) -> torch.Generator:
    """A source of randomness."""
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def output_change(model: nn.Module, shuffled: nn.Module, example: Sequence[Tensor]) -> float:
    """The greatest difference of both networks' outputs, relative to the greatest output.

    Raises `RehearsalError` when it is more than rounding.
    """
    expected, got = model.eval()(*example), shuffled.eval()(*example)
    change = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not change <= MOST_CHANGE:
        raise RehearsalError(f"shuffling the reference's units changes its outputs by {change:.2g}: report its spec")
    return change


def recovered(reference: State, merged: State) -> str:
    """The first tensor of ``merged`` that is not, bit for bit, the reference's; empty without one."""
    names = [name for name in reference if not name.endswith(STATISTICS)]
    return next((name for name in names if not torch.equal(reference[name], merged[name])), "")

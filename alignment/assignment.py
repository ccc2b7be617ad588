"""The linear assignment problem, for matrices whose best assignment is often the incumbent."""

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(gain: Float[Tensor, "units units"], incumbent: Int64[Tensor, " units"]) -> Int64[Tensor, " units"]:
    """q that maximises Σ gain[i, q(i)]; the incumbent where no row has anything better."""
    if bool((gain.gather(1, incumbent[:, None])[:, 0] >= gain.amax(1)).all()):
        return incumbent
    # A copy, so that an fp64 ``gain`` keeps its sign. scipy takes fp64 as it is; asked to maximise it would copy again.
    return torch.from_numpy(linear_sum_assignment(gain.to(torch.float64, copy=True).neg_().numpy())[1])

"""The linear assignment problem, for matrices whose best assignment is often the incumbent."""

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(gain: Float[Tensor, "units units"], incumbent: Int64[Tensor, " units"]) -> Int64[Tensor, " units"]:
    """q that maximises Σ gain[i, q(i)]; the incumbent where no row has anything better."""
    if bool((gain.gather(1, incumbent[:, None])[:, 0] >= gain.amax(1)).all()):
        return incumbent
    # scipy minimises an fp64 matrix in place of copying it; asked to maximise it would copy.
    return torch.from_numpy(linear_sum_assignment(gain.double().neg_().numpy())[1])

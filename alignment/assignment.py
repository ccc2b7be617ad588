"""The linear assignment problem, for matrices whose best assignment is often the incumbent."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


def assign(
    gain: Float[Tensor, "units units"],
    incumbent: Int64[Tensor, " units"],
    scratch: Float64[Tensor, "units units"] | None = None,
) -> Int64[Tensor, " units"]:
    """q that maximises Σ gain[i, q(i)]; the incumbent where no row has anything better. Overwrites ``scratch``."""
    most = gain.amax(1, keepdim=True)
    if bool((gain.gather(1, incumbent[:, None]) >= most).all()):
        return incumbent
    # Half a second, which every message to a site would take longer if this stood above.
    from scipy.optimize import linear_sum_assignment

    # scipy takes an fp64 matrix as it is; asked to maximise it would copy. Reduced rows and columns spare it a fifth.
    cost = (torch.empty_like(gain, dtype=torch.float64) if scratch is None else scratch).copy_(gain)
    cost.neg_().add_(most).sub_(cost.amin(0))
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])

"""Linear equations whose answer has the same bytes on every run and for every number of threads."""

from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor


def solve(matrix: Float64[Tensor, "n n"], wanted: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """The x of ``matrix`` x = ``wanted``, by LU decomposition in one thread.

    LAPACK's blocks, hence its rounding, follow the number of threads. `torch.linalg.lstsq` is no substitute: its answer
    changes with where its workspace happens to lie in memory. Raises `torch.linalg.LinAlgError` for a singular
    ``matrix``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cast(Tensor, torch.linalg.solve(matrix, wanted))
    finally:
        torch.set_num_threads(threads)

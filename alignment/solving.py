"""Linear equations whose answer has the same bytes on every run and for every number of threads."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor

from alignment.errors import StateError


def solve(matrix: Float64[Tensor, "n n"], wanted: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """The x of ``matrix`` x = ``wanted``, by LU decomposition in one thread.

    LAPACK's blocks, hence its rounding, follow the number of threads. `torch.linalg.lstsq` is no substitute: its answer
    changes with where its workspace happens to lie in memory. Raises `torch.linalg.LinAlgError` for a singular
    ``matrix``.
    """
    with _one_thread():
        return cast(Tensor, torch.linalg.solve(matrix, wanted))


def cholesky(matrix: Float64[Tensor, "n n"]) -> Float64[Tensor, "n n"]:
    """The lower triangular L with LLᵀ = ``matrix``, in one thread.

    Raises `StateError` unless ``matrix`` is positive definite.
    """
    with _one_thread():
        lower, info = cast(tuple[Tensor, Tensor], torch.linalg.cholesky_ex(matrix))
    if info.item():
        raise StateError(f"a matrix of shape {tuple(matrix.shape)} is not positive definite: it is no sum over samples")
    return lower


def triangular_solve(
    triangle: Float64[Tensor, "n n"], wanted: Float64[Tensor, "n k"], *, upper: bool
) -> Float64[Tensor, "n k"]:
    """The x of ``triangle`` x = ``wanted``, in one thread."""
    with _one_thread():
        return cast(Tensor, torch.linalg.solve_triangular(triangle, wanted, upper=upper))


@contextmanager
def _one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Solving linear equations: the same bytes wherever memory lies and however many threads there are."""

import pytest
import torch

from alignment.solving import solve


@pytest.mark.parametrize("size", [17, 600])
def test_answers_are_the_same_bytes_each_time(size: int) -> None:
    rows = torch.rand(2 * size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix, wanted = (
        rows.T @ rows,
        torch.rand(size, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    )
    before = torch.get_num_threads()
    answers: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    try:
        for threads in (1, 2) * 10:
            torch.set_num_threads(threads)
            kept.append(torch.rand(size + len(kept)))  # what comes next lies elsewhere in memory
            answers.append(solve(matrix.clone(), wanted.clone()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (matrix @ answers[0]).allclose(wanted)
    assert all(answer.equal(answers[0]) for answer in answers)

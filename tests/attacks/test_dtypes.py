"""Complex, object, string and structured dtypes, and the wrong width."""

from typing import Any

import numpy as np
import pytest

from tests.attacks.federation import assert_costs_one_turn, with_array, with_first


@pytest.mark.parametrize("dtype", [np.complex64, np.float64, np.float16, np.int32, ">f4"])
def test_another_dtype(dtype: Any) -> None:
    assert_costs_one_turn(with_first(lambda array: array.astype(dtype)), "DTYPE")


@pytest.mark.parametrize("dtype", ["U4", [("a", "f4"), ("b", "f4")]])
def test_text_and_records(dtype: Any) -> None:
    assert_costs_one_turn(with_first(lambda array: np.zeros(array.shape, dtype)), "DTYPE")


@pytest.mark.parametrize("dtype", ["object", "O", "float32; import os", ""])
def test_a_dtype_that_is_only_claimed(dtype: str) -> None:
    assert_costs_one_turn(with_array(dtype=dtype), "DTYPE")

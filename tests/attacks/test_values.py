"""NaN, infinity, a huge norm."""

import numpy as np
import pytest

from server.summary import read_rounds
from tests.attacks.federation import Values, assert_costs_one_turn, attacked, with_first


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number(value: float) -> None:
    def plant(array: Values) -> Values:
        changed = array.copy()
        changed.flat[-1] = value
        return changed

    assert_costs_one_turn(with_first(plant), "NOT_FINITE")


@pytest.mark.parametrize("factor", [1e6, 1e30])
def test_an_update_of_huge_norm(factor: float) -> None:
    record = assert_costs_one_turn(with_first(lambda array: array * np.float32(factor)), "NORM", start="shared")
    assert "times the round's median" in record.refused[0].detail


def test_values_whose_difference_overflows() -> None:
    assert_costs_one_turn(with_first(lambda array: np.full_like(array, np.finfo(np.float32).max)), "NORM")


def test_an_absolute_bound() -> None:
    spoil = with_first(lambda array: array + np.float32(100))
    record = assert_costs_one_turn(spoil, "NORM", max_update_norm=50.0)
    assert record.refused[0].detail.endswith("the bound is 50")


def test_leniency_tells_and_lets_pass() -> None:
    (record, _) = read_rounds(attacked(with_first(lambda array: array * np.float32(1e6)), admission="lenient"))
    assert record.refused == []
    assert len(record.weights) == 3

"""NaN, infinity, a huge norm."""

import numpy as np
import pytest
from flwr.app import Array, Message

from server.summary import read_rounds
from strategies.protocol import ARRAYS, PERMUTATION, TRAIN
from tests.attacks.federation import RESNET, Values, assert_costs_one_turn, attacked, with_first


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number(value: float) -> None:
    def plant(array: Values) -> Values:
        changed = array.copy()
        changed.flat[-1] = value
        return changed

    assert_costs_one_turn(with_first(plant), "NOT_FINITE")


@pytest.mark.parametrize("factor", [1e6, 1e12])
def test_an_update_of_huge_norm(factor: float) -> None:
    record = assert_costs_one_turn(with_first(lambda array: array * np.float32(factor)), "NORM", start="shared")
    assert "times the round's median" in record.refused[0].detail


def test_values_whose_difference_overflows() -> None:
    assert_costs_one_turn(with_first(lambda array: np.full_like(array, np.finfo(np.float32).max)), "NORM")


@pytest.mark.parametrize("align_at", ["server", "both"])
def test_values_whose_products_with_the_references_overflow(align_at: str) -> None:
    """They are matched as they come, before their norm is held against the others'."""
    huge = with_first(lambda array: np.full_like(array, 1e38))

    def spoil(reply: Message) -> None:
        huge(reply)
        # Without a proposal the server matches weights.
        reply.content.array_records.pop(PERMUTATION, None)

    record = assert_costs_one_turn(spoil, "NORM", start="shared", align_at=align_at)
    assert "no network's is above 1e+15" in record.refused[0].detail


@pytest.mark.parametrize("align_at", ["server", "both"])
def test_a_variance_below_zero(align_at: str) -> None:
    def spoil(reply: Message) -> None:
        arrays = reply.content.array_records[ARRAYS]
        arrays["bn1.running_var"] = Array(-arrays["bn1.running_var"].numpy())

    record = assert_costs_one_turn(spoil, "MOMENTS", TRAIN, **RESNET, start="shared", align_at=align_at)
    assert record.refused[0].detail == "tensor 'bn1.running_var': a running variance is below 0"


def test_an_absolute_bound() -> None:
    spoil = with_first(lambda array: array + np.float32(100))
    record = assert_costs_one_turn(spoil, "NORM", max_update_norm=50.0)
    assert record.refused[0].detail.endswith("the bound is 50")


def test_leniency_tells_and_lets_pass() -> None:
    (record, _) = read_rounds(attacked(with_first(lambda array: array * np.float32(1e6)), admission="lenient"))
    assert record.refused == []
    assert len(record.weights) == 3

"""Wrong shapes, among them those that would broadcast into the right one."""

import numpy as np
import pytest

from tests.attacks.federation import Change, assert_costs_one_turn, with_array, with_first

WRONG: dict[str, Change] = {
    "one row, which broadcasts": lambda array: array[:1],
    "a number": lambda array: np.asarray(array.flat[0]),
    "flat": lambda array: array.reshape(-1),
    "one more axis": lambda array: array[None],
    "nothing": lambda array: array[..., :0],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_wrong_shape(change: Change) -> None:
    assert_costs_one_turn(with_first(change), "SHAPE")


def test_a_size_below_zero() -> None:
    assert_costs_one_turn(with_array(shape=(-1,)), "SHAPE")

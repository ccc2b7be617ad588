"""Class counts that do not add up to the samples."""

import pytest

from tests.attacks.federation import assert_costs_one_turn, with_metric


@pytest.mark.parametrize("counts", [[1] * 10, [-1] * 10, [0.5] * 10, [10**12] * 10, [1], None])
def test_counts_that_do_not_add_up(counts: object) -> None:
    assert_costs_one_turn(with_metric("class-counts", counts), "COUNTS", head="counts")

"""Numbers of examples that no site has, and those that would give one site all the say."""

import pytest

from server.summary import read_rounds
from tests.attacks.federation import HOSTILE_NAME, assert_costs_one_turn, attacked, with_metric


@pytest.mark.parametrize("value", [0, -9, 10**12, float("nan"), float("inf"), -0.0, None, [1, 2]])
def test_a_number_of_examples_that_cannot_be(value: object) -> None:
    assert_costs_one_turn(with_metric("num-examples", value), "WEIGHT")


def test_a_great_number_of_examples_does_not_make_one_site_the_model(caplog: pytest.LogCaptureFixture) -> None:
    (record, _) = read_rounds(attacked(with_metric("num-examples", 10**8), max_weight_share=0.5))
    assert record.weights[HOSTILE_NAME] / sum(record.weights.values()) == pytest.approx(0.5)
    assert f"max-weight-share = 0.5: {HOSTILE_NAME} weighs" in caplog.text

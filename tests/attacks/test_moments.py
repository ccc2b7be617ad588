"""Sums that no samples have: of statistics, of losses."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from server.summary import read_rounds
from strategies.protocol import EVALUATE, METRICS, RECALIBRATE
from tests.attacks.federation import RESNET, Change, Spoil, assert_costs_one_turn, attacked
from tests.attacks.test_headers import header


def with_moments(part: str, change: Change) -> Spoil:
    """Changes the first of the moments of that part."""

    def spoil(reply: Message) -> None:
        (record,) = reply.content.array_records.values()
        name = next(name for name in record if name.endswith(part))
        record[name] = Array(np.asarray(change(record[name].numpy())))

    return spoil


WRONG: list[tuple[str, Change, str]] = [
    ("squares", lambda array: -array, "MOMENTS"),
    ("squares", lambda array: array * 0, "MOMENTS"),
    ("count", lambda array: -array, "MOMENTS"),
    ("count", lambda array: array * 0, "MOMENTS"),
    ("count", lambda array: array * 0 + 1, "MOMENTS"),
    ("squares", lambda array: array * 1e200, "MOMENTS"),
    ("sum", lambda array: array * 1e9, "MOMENTS"),
    ("sum", lambda array: array[:1], "MOMENTS"),
    ("sum", lambda array: array * np.nan, "NOT_FINITE"),
    ("count", lambda array: array * np.inf, "NOT_FINITE"),
    ("sum", lambda array: array.astype("U4"), "DTYPE"),
]


@pytest.mark.parametrize(("part", "change", "reason"), WRONG)
def test_moments_that_no_samples_have(part: str, change: Change, reason: str) -> None:
    assert_costs_one_turn(with_moments(part, change), reason, RECALIBRATE, **RESNET)


def with_count(shape: tuple[int, ...]) -> Spoil:
    """A count of 100, stored by column and in a shape of its own."""

    def spoil(reply: Message) -> None:
        (record,) = reply.content.array_records.values()
        name = next(name for name in record if name.endswith("count"))
        data = header(shape, "<f8", by_column=True) + np.float64(100).tobytes()
        record[name] = Array(dtype="float64", shape=(), stype="numpy.ndarray", data=data)

    return spoil


@pytest.mark.parametrize("shape", [(True,), (0, 10**20)])
def test_moments_of_odd_shapes(shape: tuple[int, ...]) -> None:
    assert_costs_one_turn(with_count(shape), "ENCODING", RECALIBRATE, **RESNET)


def test_a_single_number_by_column_is_that_number() -> None:
    assert read_rounds(attacked(with_count(()), RECALIBRATE, **RESNET))[0].outcome == "merged"


def test_moments_of_a_layer_that_is_none() -> None:
    def spoil(reply: Message) -> None:
        (name,) = reply.content.array_records
        reply.content[name] = ArrayRecord({"backdoor.count": Array(np.ones(()))})

    assert_costs_one_turn(spoil, "MOMENTS", RECALIBRATE, **RESNET)


@pytest.mark.parametrize(
    "values",
    [[-5.0, 1.0, 1.0], [0.0, 1.0, 0.0], [10.0, -3.0, 1.0], [10.0, 1.0, 11.0], [10.0, 1.0, float("nan")], [1.0], 7.0],
)
def test_losses_that_no_samples_have(values: list[float] | float) -> None:
    def spoil(reply: Message) -> None:
        reply.content.metric_records[METRICS]["merged"] = values

    known = isinstance(values, list) and len(values) == 3
    assert_costs_one_turn(spoil, "MOMENTS" if known else "MALFORMED", EVALUATE)

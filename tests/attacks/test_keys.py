"""Tensors that are missing, renamed, or one too many; records that are not asked for."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from strategies.protocol import ARRAYS, METRICS
from tests.attacks.federation import Spoil, assert_costs_one_turn


def extra(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    arrays["backdoor.weight"] = next(iter(arrays.values()))


def missing(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    reply.content[ARRAYS] = ArrayRecord(dict(list(arrays.items())[1:]))


def renamed(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    names: list[tuple[str, Array]] = [(f"module.{name}", array) for name, array in arrays.items()]
    reply.content[ARRAYS] = ArrayRecord(dict(names))


@pytest.mark.parametrize("spoil", [extra, missing, renamed])
def test_other_tensors_than_the_references(spoil: Spoil) -> None:
    assert_costs_one_turn(spoil, "KEYS")


def no_arrays(reply: Message) -> None:
    del reply.content[ARRAYS]


def two_networks(reply: Message) -> None:
    reply.content["another"] = reply.content.array_records[ARRAYS]


def no_metrics(reply: Message) -> None:
    del reply.content[METRICS]


def two_metrics(reply: Message) -> None:
    reply.content["more"] = MetricRecord({"num-examples": 5})


@pytest.mark.parametrize("spoil", [no_arrays, two_networks, no_metrics, two_metrics])
def test_other_records_than_asked_for(spoil: Spoil) -> None:
    assert_costs_one_turn(spoil, "MALFORMED")


def test_a_matching_that_says_nonsense() -> None:
    def spoil(reply: Message) -> None:
        reply.content["matching"] = ConfigRecord({"objective": "much", "gain": 1.0, "sweeps": 1, "converged": True})

    assert_costs_one_turn(spoil, "MALFORMED")

"""A site tells of just the networks that it was asked about: more, or fewer, costs it its turn, and ends no run."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from flwr.app import Message

from strategies.protocol import EVALUATE, FEATURES, LOGISTIC, METRICS, PROBE, RECALIBRATE
from tests.attacks.federation import RESNET, assert_costs_one_turn

Spoil = Callable[[Message], None]


def said(reply: Message) -> dict[str, Any]:
    """What it says of each network, as the message holds it."""
    arrays = cast(dict[str, Any], reply.content.array_records)
    return arrays or cast(dict[str, Any], reply.content.metric_records[METRICS])


def one_more(reply: Message) -> None:
    """What it says of a network also stands under another name."""
    records = said(reply)
    records["another"] = next(iter(records.values()))


def one_less(reply: Message) -> None:
    """What it says of one network is missing."""
    records = said(reply)
    del records[next(iter(records))]


@pytest.mark.parametrize("spoil", [one_more, one_less])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (RECALIBRATE, RESNET),
        (EVALUATE, {}),
        (FEATURES, {"head": "ridge"}),
        (LOGISTIC, {"head": "logistic", "head_trips": 2}),
        (PROBE, {"probe_points": 3}),
    ],
)
def test_other_networks_than_were_asked_about(kind: str, changes: dict[str, object], spoil: Spoil) -> None:
    assert_costs_one_turn(spoil, "MALFORMED", kind, **changes)

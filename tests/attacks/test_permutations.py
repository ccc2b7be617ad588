"""A proposed permutation that is none."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from server.summary import read_rounds
from strategies.protocol import ALIGN, PERMUTATION
from tests.attacks.federation import HOSTILE_NAME, Change, assert_costs_one_turn, attacked

WRONG: dict[str, Change] = {
    "all the same": lambda units: units * 0,
    "past the end": lambda units: units + 1,
    "from the end": lambda units: units - len(units),
    "one too short": lambda units: units[:-1],
    "one too long": lambda units: np.append(units, len(units)),
    "no integers": lambda units: units.astype(np.float64),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_group_that_is_no_permutation(change: Change) -> None:
    def spoil(reply: Message) -> None:
        record = reply.content.array_records[PERMUTATION]
        name = next(iter(record))
        record[name] = Array(change(record[name].numpy()))

    assert_costs_one_turn(spoil, "PERMUTATION", ALIGN, align_at="both")


def test_one_that_is_kept_back_leaves_the_naive_mean_unknown() -> None:
    """Where the site aligns itself and naive means are asked for; nobody else loses anything."""

    def spoil(reply: Message) -> None:
        del reply.content.array_records[PERMUTATION]

    store = attacked(spoil, ALIGN, align_at="site", baselines=True, variants=True)
    first, second = read_rounds(store)
    assert [first.outcome, second.outcome] == ["merged", "merged"]
    assert not first.refused
    assert HOSTILE_NAME in first.baselines
    assert "aligned.recalibrated" in first.baselines
    assert not [name for name in first.baselines if name.startswith("naive")]


def test_a_group_of_another_network() -> None:
    def spoil(reply: Message) -> None:
        reply.content[PERMUTATION] = ArrayRecord({"another": Array(np.arange(4))})

    assert_costs_one_turn(spoil, "PERMUTATION", ALIGN, align_at="both")

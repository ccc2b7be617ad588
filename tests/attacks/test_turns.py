"""Replies out of turn: twice, late, of nobody that was asked, of another round."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from client.app import app
from server.resume import last_whole
from server.summary import read_rounds
from strategies.exchange import exchange
from strategies.fed_rebasin import FedRebasin
from strategies.protocol import DESCRIBE, request
from tests.attacks.federation import HOSTILE_NAME, assert_costs_one_turn, attacked, fail_with
from tests.inprocess import FIRST_NODE, InProcessGrid, Ticking, quick_settings
from tests.replies import no_groups, ready, same_floats, small_state, train_reply


def aggregated(replies: Iterable[Message]) -> tuple[ArrayRecord, list[tuple[str, str]]]:
    strategy = ready(FedRebasin(spec=no_groups()), small_state(0))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert strategy.merged is not None
    return arrays, [(verdict.site, verdict.reason.name) for verdict in strategy.merged.refused]


def test_a_second_reply_of_one_site() -> None:
    honest = [train_reply(1, small_state(1)), train_reply(2, small_state(2))]
    arrays, refused = aggregated([*honest, train_reply(1, small_state(3))])
    assert refused == [("a", "DUPLICATE")]
    assert same_floats(arrays, aggregated(honest)[0])


def test_an_error_without_a_reason() -> None:
    store = attacked(lambda reply: fail_with(reply, Error(2)))
    (verdict,) = read_rounds(store)[0].refused
    assert (verdict.site, verdict.reason) == (HOSTILE_NAME, "CLIENT_ERROR")


def test_a_reply_of_a_node_that_was_not_asked() -> None:
    honest = [train_reply(1, small_state(1)), train_reply(2, small_state(2))]
    arrays, refused = aggregated([*honest, train_reply(77, small_state(3))])
    assert refused == [("77", "UNASKED")]
    assert same_floats(arrays, aggregated(honest)[0])


def test_a_reply_that_expired_on_its_way() -> None:
    def late(reply: Message) -> None:
        fail_with(reply, Error(3, "message expired"))

    assert_costs_one_turn(late, "LATE")


def test_a_site_that_left() -> None:
    (record, _) = read_rounds(attacked(left))
    assert [(verdict.site, verdict.reason) for verdict in record.refused] == [(HOSTILE_NAME, "GONE")]


def left(reply: Message) -> None:
    fail_with(reply, Error(5, "node unavailable"))


@pytest.mark.parametrize("text", ["a\u2028b", "a\nb", "a\x85b", "a\x1eb", '"}', "\x1b[31m"])
def test_the_text_of_an_error_does_not_break_the_lines_of_the_run_store(text: str) -> None:
    store = attacked(lambda reply: fail_with(reply, Error(2, text)))
    assert [record.round for record in read_rounds(store)] == [1, 2]
    assert [record.round for record in last_whole(store, 5).rounds] == [1, 2]


class Confused(InProcessGrid):
    """Gives each reply as that to whatever is asked for next."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """All that lies there, once."""
        found = list(self.replies.values())
        self.replies.clear()
        return found


def test_a_reply_to_another_message_is_not_heard(tmp_path: Path) -> None:
    # The first site's reply of the round before lies there still, and the second is silent now.
    grid = Confused(app, quick_settings(tmp_path), 2, lambda partition, reply: reply if partition == 0 else None)
    grid.push_messages([request(FIRST_NODE, DESCRIBE, RecordDict(), 1, 60)])
    asked = [request(FIRST_NODE + 1, DESCRIBE, RecordDict(), 2, 60)]
    assert list(exchange(grid, asked, 5.0, Ticking().clock())) == [(FIRST_NODE + 1, None)]


@dataclass
class BreakingOff(InProcessGrid):
    """A SuperLink that dies ``deaths`` times while it is sent something; where it had taken all, it does not again."""

    deaths: int = 1
    taken: bool = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Numbers, none for what is known."""
        if self.taken and not self.replies:
            super().push_messages(messages)
        if self.deaths:
            self.deaths -= 1
            raise ObjectPushError("1", 1, "gone")
        return ["" for _ in messages] if self.taken else super().push_messages(messages)


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_dying_superlink_did_not_take_is_sent_once_more(tmp_path: Path, taken: bool) -> None:
    grid = BreakingOff(app, quick_settings(tmp_path), 2, deaths=2, taken=taken)
    asked = [request(FIRST_NODE + site, DESCRIBE, RecordDict(), 1, 60) for site in range(2)]
    assert {node: reply is not None for node, reply in exchange(grid, asked, 5.0, Ticking().clock())} == {
        FIRST_NODE: True,
        FIRST_NODE + 1: True,
    }


def test_a_superlink_that_never_takes_anything_ends_the_wait_at_the_deadline(tmp_path: Path) -> None:
    grid = BreakingOff(app, quick_settings(tmp_path), 1, deaths=1000)
    ticking = Ticking()
    with pytest.raises(ObjectPushError):
        list(exchange(grid, [request(FIRST_NODE, DESCRIBE, RecordDict(), 1, 60)], 5.0, ticking.clock()))
    assert ticking.time == 5.0

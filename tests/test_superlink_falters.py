"""A SuperLink that answers 5xx for a while, as where its database is locked, ends no round."""

from collections.abc import Callable, Collection, Iterable
from math import inf
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from server.sites import Sites
from strategies.exchange import exchange
from tests.inprocess import LocalGrid, Ticking, outside_flower, quick_settings


class Faltering(LocalGrid):
    """A SuperLink that answers ``status`` to the first so many ``pushes`` and ``pulls``, and to those ``looks``."""

    def __init__(self, status: int, pushes: int = 0, pulls: int = 0, looks: Collection[int] = ()) -> None:
        outside_flower()
        self.looks = looks
        self.n_looks = 0
        self.status = status
        self.pushes = pushes
        self.pulls = pulls
        self.sent: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """One node."""
        return [7]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Registered."""
        self.n_looks += 1
        if self.n_looks in self.looks:
            self._falter("get-nodes")
        return [NodeInfo(node_id=7, name="site-us")]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes them, once it no longer fails."""
        if self.pushes:
            self.pushes -= 1
            self._falter("push-messages")
        numbers: list[str] = []
        for message in messages:
            number = f"message-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = number
            self.sent[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What each node answers, once it no longer fails."""
        if self.pulls:
            self.pulls -= 1
            self._falter("pull-messages")
        return [Message(RecordDict(), reply_to=self.sent[number]) for number in message_ids]

    def _falter(self, path: str) -> None:
        request = httpx.Request("POST", f"https://superlink:8000/v1/runtime/{path}")
        httpx.Response(self.status, request=request).raise_for_status()


def question() -> Message:
    """To one node."""
    return Message(RecordDict({"config": ConfigRecord({})}), 7, "query", ttl=100.0, group_id="1")


@pytest.mark.parametrize("grid", [lambda: Faltering(500, pulls=3), lambda: Faltering(503, pushes=3)])
def test_what_a_superlink_failed_to_answer_is_asked_again(grid: Callable[[], Faltering]) -> None:
    ((node_id, reply),) = exchange(grid(), [question()], 60.0, Ticking().clock())
    assert node_id == 7
    assert reply is not None


@pytest.mark.parametrize("grid", [lambda: Faltering(401, pulls=1), lambda: Faltering(401, pushes=1)])
def test_what_a_superlink_refuses_is_not_asked_again(grid: Callable[[], Faltering]) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        list(exchange(grid(), [question()], 60.0, Ticking().clock()))


def test_a_reply_that_a_superlink_never_hands_out_is_none_at_the_deadline() -> None:
    ticking = Ticking()
    assert list(exchange(Faltering(500, pulls=1000), [question()], 60.0, ticking.clock())) == [(7, None)]
    assert ticking.time == pytest.approx(60.0, abs=2.0)


def test_a_superlink_that_takes_no_message_until_the_deadline_ends_the_run() -> None:
    ticking = Ticking()
    with pytest.raises(httpx.HTTPStatusError, match="500"):
        list(exchange(Faltering(500, pushes=1000), [question()], 60.0, ticking.clock()))
    assert ticking.time == pytest.approx(60.0, abs=2.0)


def sites(grid: Faltering, ticking: Ticking, directory: Path) -> Sites:
    """Those of a run that needs one site, and waits 30 s for it."""
    return Sites(grid, quick_settings(directory, min_sites=1, join_deadline_seconds=30.0), ticking.clock())


# The first look is whether there are enough, the second whom to ask.
@pytest.mark.parametrize("looks", [(1,), (2,), (1, 2, 4, 5)])
def test_a_superlink_that_fails_to_tell_who_is_there_is_asked_again(looks: Collection[int], tmp_path: Path) -> None:
    joined = sites(Faltering(500, looks=looks), Ticking(), tmp_path)
    joined.join()
    assert joined.names == {7: "site-us"}


def test_a_superlink_that_never_tells_who_is_there_ends_the_run_at_the_deadline(tmp_path: Path) -> None:
    ticking = Ticking()
    with pytest.raises(httpx.HTTPStatusError, match="500"):
        sites(Faltering(500, looks=range(1000)), ticking, tmp_path).join()
    assert ticking.time == pytest.approx(30.0, abs=2.0)


def test_a_superlink_that_refuses_to_tell_who_is_there_is_not_asked_again(tmp_path: Path) -> None:
    grid = Faltering(401, looks=(1,))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        sites(grid, Ticking(), tmp_path).join()
    assert grid.n_looks == 1


class Slow(Faltering):
    """A node that answers once the clock is at ``at``; the looks that found nothing are counted."""

    def __init__(self, at: float, ticking: Ticking) -> None:
        super().__init__(500)
        self.at, self.ticking = at, ticking

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Its answer, once it is there."""
        if self.ticking.time >= self.at:
            return super().pull_messages(message_ids)
        self.n_looks += 1
        return []


@pytest.mark.parametrize(("at", "least", "most"), [(2.0, 20, 21), (60.0, 150, 200), (3600.0, 1300, 1450)])
def test_who_trains_for_long_is_not_looked_at_ten_times_a_second(at: float, least: int, most: int) -> None:
    ticking = Ticking()
    grid = Slow(at, ticking)
    ((_, reply),) = exchange(grid, [question()], 7200.0, ticking.clock())
    assert reply is not None
    assert least <= grid.n_looks <= most
    assert ticking.time - at <= max(0.1, 0.02 * at)


@pytest.mark.parametrize("deadline", [0.25, 60.0, 1000.0])
def test_a_deadline_is_not_overslept(deadline: float) -> None:
    ticking = Ticking()
    assert list(exchange(Slow(inf, ticking), [question()], deadline, ticking.clock())) == [(7, None)]
    assert ticking.time == pytest.approx(deadline)

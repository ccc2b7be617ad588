"""Joining: who counts as a site, and what happens when too few come."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message
from flwr.proto.node_pb2 import NodeInfo

from client.app import app
from server.sites import JoinError, Sites
from strategies.protocol import DESCRIPTION
from tests.attacks.federation import fail
from tests.inprocess import FIRST_NODE, InProcessGrid, Tamper, Ticking, honest, quick_settings


def called(name: str) -> Tamper:
    """Site 1 says that it is called ``name``."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1:
            reply.content[DESCRIPTION] = ConfigRecord({"name": name})
        return reply

    return tamper


def join(directory: Path, n_sites: int, min_sites: int, tamper: Tamper = honest) -> Sites:
    settings = quick_settings(directory, min_sites=min_sites, join_deadline_seconds=30.0)
    return joined(InProcessGrid(app, settings, n_sites, tamper))


def joined(grid: InProcessGrid) -> Sites:
    sites = Sites(grid, grid.settings, Ticking().clock())
    sites.join()
    return sites


def test_sites_join_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert list(join(tmp_path, 3, 2).names.values()) == ["site-3", "site-eu", "site-us"]


@pytest.mark.parametrize(
    "name",
    ["../outside", "a/b", "two\nlines", 'quo"te', "", "x" * 65, "config", "naive.1", "round-1", "site-us.corrected"],
)
def test_a_site_whose_name_could_not_be_a_file_or_a_label_is_left_out(tmp_path: Path, name: str) -> None:
    assert list(join(tmp_path, 3, 2, called(name)).names.values()) == ["site-3", "site-us"]


class Slow(InProcessGrid):
    """The reply of the first node that is asked comes last."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (number,) = message_ids
        return [] if number == next(iter(self.replies)) and len(self.replies) > 1 else super().pull_messages([number])


@pytest.mark.parametrize("grid", [InProcessGrid, Slow])
def test_a_second_site_of_one_name_is_left_out_whichever_answers_first(
    tmp_path: Path, grid: type[InProcessGrid]
) -> None:
    names = joined(grid(app, quick_settings(tmp_path), 3, called("site-us"))).names
    assert names == {FIRST_NODE + 2: "site-3", FIRST_NODE: "site-us"}


class Registered(InProcessGrid):
    """The node of site 1 is registered under a name."""

    there: tuple[int, ...] = (0, 1, 2)

    def get_node_ids(self) -> Iterable[int]:
        return [FIRST_NODE + site for site in self.there]

    def get_nodes(self) -> Iterable[NodeInfo]:
        names = {FIRST_NODE + 1: "site-us"}
        return [NodeInfo(node_id=node_id, name=names.get(node_id, "")) for node_id in self.get_node_ids()]


def test_a_registered_name_is_not_taken_by_whoever_says_it(tmp_path: Path) -> None:
    names = joined(Registered(app, quick_settings(tmp_path), 3)).names
    assert names == {FIRST_NODE + 2: "site-3", FIRST_NODE + 1: "site-us"}


def test_a_registered_node_takes_its_name_back_from_who_said_it_before(tmp_path: Path) -> None:
    grid = Registered(app, quick_settings(tmp_path), 3)
    grid.there = (0, 2)
    sites = joined(grid)
    assert sites.names == {FIRST_NODE + 2: "site-3", FIRST_NODE: "site-us"}
    grid.there = (0, 1, 2)
    sites.join()
    assert sites.names == {FIRST_NODE + 2: "site-3", FIRST_NODE + 1: "site-us"}


@dataclass
class Timed(InProcessGrid):
    """Each node's first answer comes at a time of its own, in seconds; ``lost`` are never answered."""

    ticking: Ticking = field(default_factory=Ticking)
    after: tuple[float, ...] = (0.0, 0.0, 0.0)
    lost: int = 0

    def _push(self, message: Message) -> str:
        number = super()._push(message)
        if message.metadata.dst_node_id == FIRST_NODE + 2 and self.lost:
            self.lost -= 1
            del self.replies[number]
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        there = [number for number in message_ids if number in self.replies and self._is_due(self.replies[number])]
        return super().pull_messages(there)

    def _is_due(self, reply: Message) -> bool:
        return self.ticking.time >= self.after[reply.metadata.src_node_id - FIRST_NODE]


def timed(
    directory: Path, *after: float, min_sites: int = 2, tamper: Tamper = honest, lost: int = 0
) -> tuple[Sites, Ticking]:
    """Three sites that answer then, and the clock of who waits for them."""
    settings = quick_settings(directory, min_sites=min_sites, join_deadline_seconds=600.0)
    grid = Timed(app, settings, 3, tamper, after=after, lost=lost)
    return Sites(grid, settings, grid.ticking.clock()), grid.ticking


def seconds_to_join(sites: Sites, ticking: Ticking) -> float:
    began = ticking.time
    sites.join()
    return ticking.time - began


def test_who_is_silent_keeps_the_others_waiting_for_a_minute_and_once(tmp_path: Path) -> None:
    sites, ticking = timed(tmp_path, 0.0, 1.0, inf)
    assert seconds_to_join(sites, ticking) == pytest.approx(61.0, abs=0.2)
    assert list(sites.names.values()) == ["site-eu", "site-us"]
    assert [seconds_to_join(sites, ticking) for _ in range(3)] == [0.0] * 3


def test_who_answers_late_joins_the_next_round(tmp_path: Path) -> None:
    sites, ticking = timed(tmp_path, 0.0, 0.0, 200.0)
    sites.join()
    ticking.sleep(200.0)
    assert seconds_to_join(sites, ticking) == 0
    assert list(sites.names.values()) == ["site-3", "site-eu", "site-us"]


def test_who_lost_the_question_is_asked_again(tmp_path: Path) -> None:
    """As a SuperNode that was started anew: it has the same node id, and the question is gone."""
    sites, ticking = timed(tmp_path, 0.0, 0.0, 0.0, lost=1)
    sites.join()
    sites.join()
    assert len(sites.names) == 2
    ticking.sleep(600.0)
    sites.join()
    assert len(sites.names) == 3


def test_where_all_are_slow_nobody_is_cut_off_who_needs_less_than_twice_as_long(tmp_path: Path) -> None:
    sites, ticking = timed(tmp_path, 150.0, 140.0, 290.0)
    assert seconds_to_join(sites, ticking) == pytest.approx(290.0, abs=3.0)
    assert len(sites.names) == 3


def test_two_of_one_name_are_not_two_sites_while_another_may_come(tmp_path: Path) -> None:
    sites, ticking = timed(tmp_path, 0.0, 0.0, 90.0, tamper=called("site-us"))
    sites.join()
    assert list(sites.names.values()) == ["site-3", "site-us"]
    assert ticking.time == pytest.approx(90.0, abs=0.2)


def test_the_least_number_of_sites_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    sites, ticking = timed(tmp_path, 0.0, 0.0, inf, min_sites=3)
    for _ in range(2):
        with pytest.raises(JoinError, match=r"2 of 3 sites \(min-sites\) joined: "):
            sites.join()
    assert ticking.time == pytest.approx(1200.0, abs=0.5)


def test_too_few_nodes_end_the_run_at_the_deadline_not_later(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"2 of 3 sites \(min-sites\) there within 30 s\. Start"):
        join(tmp_path, 2, 3)


def test_of_too_few_nodes_the_registered_are_named(tmp_path: Path) -> None:
    grid = Registered(app, quick_settings(tmp_path, min_sites=3, join_deadline_seconds=30.0), 3)
    grid.there = (0, 1)
    with pytest.raises(JoinError, match=r"2 of 3 sites \(min-sites\) there within 30 s: site-us\. Start"):
        joined(grid)


def test_too_few_sites_that_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"1 of 2 sites \(min-sites\) joined: site-us\. Look"):
        join(tmp_path, 2, 2, called(""))


@dataclass
class Coming(Timed):
    """The third node is there from a time on, in seconds."""

    comes_at: float = 0.0
    registered: bool = True

    def get_node_ids(self) -> Iterable[int]:
        return [FIRST_NODE + site for site in range(3 if self.ticking.time >= self.comes_at else 2)]

    def get_nodes(self) -> Iterable[NodeInfo]:
        names = dict(enumerate(("site-us", "site-eu", "site-3"), FIRST_NODE)) if self.registered else {}
        return [NodeInfo(node_id=node_id, name=names.get(node_id, "")) for node_id in self.get_node_ids()]


def coming(
    directory: Path, comes_at: float, *, failing: bool = False, registered: bool = True
) -> tuple[Sites, Ticking]:
    """Sites of which the third comes then, and the second fails, and the clock of who waits for them."""
    settings = quick_settings(directory, min_sites=2, join_deadline_seconds=600.0)
    grid = Coming(app, settings, 3, failing_site if failing else honest, comes_at=comes_at, registered=registered)
    return Sites(grid, settings, grid.ticking.clock()), grid.ticking


def failing_site(partition: int, reply: Message) -> Message:
    """Site 1 fails whatever it is asked."""
    if partition == 1:
        fail(reply)
    return reply


def test_a_node_that_fails_does_not_end_the_wait_for_others(tmp_path: Path) -> None:
    sites, ticking = coming(tmp_path, 300.0, failing=True)
    assert seconds_to_join(sites, ticking) == pytest.approx(300.0, abs=1.0)
    assert list(sites.names.values()) == ["site-3", "site-us"]


def test_too_few_because_nodes_fail_is_told_at_the_deadline(tmp_path: Path) -> None:
    sites, ticking = coming(tmp_path, inf, failing=True)
    with pytest.raises(JoinError, match=r"1 of 2 sites \(min-sites\) joined: site-us\. Look"):
        sites.join()
    assert ticking.time == pytest.approx(600.0, abs=1.0)


def test_in_a_simulation_nobody_comes_later_and_who_fails_is_not_asked_again(tmp_path: Path) -> None:
    sites, ticking = coming(tmp_path, inf, failing=True, registered=False)
    with pytest.raises(JoinError, match=r"of 2 sites \(min-sites\)"):
        sites.join()
    assert ticking.time == 0


def test_a_node_that_failed_is_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def tamper(partition: int, reply: Message) -> Message:
        asked.append(partition)
        return failing_site(partition, reply) if asked.count(1) < 3 else reply

    sites, ticking = timed(tmp_path, 0.0, 0.0, inf, tamper=tamper)
    sites.join()
    assert list(sites.names.values()) == ["site-eu", "site-us"]
    assert ticking.time < 120.0


def test_a_site_that_is_wanted_is_waited_for_and_so_it_is_not_where_there_are_enough(tmp_path: Path) -> None:
    sites, ticking = coming(tmp_path / "wanted", 300.0)
    sites.join("site-3")
    assert ticking.time == pytest.approx(300.0, abs=1.0)
    assert "site-3" in sites.names.values()
    sites, ticking = coming(tmp_path / "enough", 300.0)
    assert seconds_to_join(sites, ticking) == 0


def test_a_site_that_is_wanted_and_does_not_come_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    sites, ticking = coming(tmp_path, inf)
    sites.join("site-3")
    assert ticking.time == pytest.approx(600.0, abs=1.0)
    assert list(sites.names.values()) == ["site-eu", "site-us"]

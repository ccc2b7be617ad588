"""Joining: who counts as a site, and what happens when too few come."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message
from flwr.proto.node_pb2 import NodeInfo

from client.app import app
from server.sites import JoinError, Sites
from strategies.protocol import DESCRIPTION
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
    "name", ["../outside", "a/b", "two\nlines", 'quo"te', "", "x" * 65, "config", "naive.1", "round-1"]
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


def test_too_few_nodes_end_the_run_at_the_deadline_not_later(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="2 nodes connected within 30 s, min-sites is 3"):
        join(tmp_path, 2, 3)


def test_too_few_sites_that_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"1 sites joined \(site-us\), min-sites is 2"):
        join(tmp_path, 2, 2, called(""))

"""Joining: who counts as a site, and what happens when too few come."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message

from client.app import app
from server.sites import JoinError, Sites
from strategies.protocol import DESCRIPTION
from tests.inprocess import InProcessGrid, Tamper, Ticking, honest, quick_settings


def called(name: str) -> Tamper:
    """Site 1 says that it is called ``name``."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition == 1:
            reply.content[DESCRIPTION] = ConfigRecord({"name": name})
        return reply

    return tamper


def join(directory: Path, n_sites: int, min_sites: int, tamper: Tamper = honest) -> Sites:
    settings = quick_settings(directory, min_sites=min_sites, join_deadline_seconds=30.0)
    grid = InProcessGrid(app, settings, n_sites, tamper)
    sites = Sites(grid, settings, Ticking().clock())
    sites.join()
    return sites


def test_sites_join_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert list(join(tmp_path, 3, 2).names.values()) == ["site-3", "site-eu", "site-us"]


@pytest.mark.parametrize(
    "name", ["../outside", "a/b", "two\nlines", 'quo"te', "", "x" * 65, "config", "naive.1", "round-1"]
)
def test_a_site_whose_name_could_not_be_a_file_or_a_label_is_left_out(tmp_path: Path, name: str) -> None:
    assert list(join(tmp_path, 3, 2, called(name)).names.values()) == ["site-3", "site-us"]


def test_a_second_site_of_one_name_is_left_out(tmp_path: Path) -> None:
    assert list(join(tmp_path, 3, 2, called("site-us")).names.values()) == ["site-3", "site-us"]


def test_too_few_nodes_end_the_run_at_the_deadline_not_later(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="2 nodes connected within 30 s, min-sites is 3"):
        join(tmp_path, 2, 3)


def test_too_few_sites_that_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"1 sites joined \(site-us\), min-sites is 2"):
        join(tmp_path, 2, 2, called(""))

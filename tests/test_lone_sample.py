"""A site that holds out one sample, and a network that answers none alone: told before the site has trained."""

import logging
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from cli.beforehand import check_data
from client.app import app
from client.sources import DataError
from models import Architecture
from strategies.protocol import CONFIG, DESCRIBE
from tests.commands import run_demo
from tests.inprocess import FIRST_NODE, InProcessGrid, quick_settings
from tests.test_preflight import find, member

DATA = "tests.test_lone_sample:little"
TOLD = r"site '[\w-]+': one sample is held out, and the network answers none alone, .* raise the run's 'held-out'"


def little() -> tuple[Tensor, list[int]]:
    """A fifth of five is one, and of two is none."""
    return torch.rand(7, 1, 8, 8), [0] * 5 + [1] * 2


def enough() -> tuple[Tensor, list[int]]:
    """A fifth of ten is two."""
    return torch.rand(10, 1, 8, 8), [0] * 5 + [1] * 5


def normed(keeps: bool, architecture: Architecture) -> nn.Module:
    norm = nn.BatchNorm1d(16, track_running_stats=keeps)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, nn.ReLU(), nn.Linear(16, architecture.classes))


def by_the_batch(architecture: Architecture) -> nn.Module:
    return normed(False, architecture)


def by_what_it_keeps(architecture: Architecture) -> nn.Module:
    return normed(True, architecture)


def joins(tmp_path: Path, network: str, data: str = DATA) -> bool:
    settings = quick_settings(tmp_path, model=f"tests.test_lone_sample:{network}", width=0, depth=0)
    grid = InProcessGrid(app, settings, 1, node_config={"data": data})
    (reply,) = grid.send_and_receive([Message(RecordDict({CONFIG: ConfigRecord({})}), FIRST_NODE, DESCRIBE)])
    return not reply.has_error()


def test_a_site_of_one_held_out_sample_does_not_join_where_the_network_normalises_by_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="fedrebasin"):
        assert not joins(tmp_path, "by_the_batch")
    (record,) = caplog.records
    assert re.match(TOLD, record.getMessage())


@pytest.mark.parametrize(
    ("network", "data"), [("by_what_it_keeps", DATA), ("by_the_batch", DATA.replace("little", "enough"))]
)
def test_it_joins_where_the_network_keeps_statistics_or_two_are_held_out(
    tmp_path: Path, network: str, data: str
) -> None:
    assert joins(tmp_path, network, data)


def test_a_demo_whose_sites_hold_out_one_sample_tells_it_before_flower_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of ten samples with disjoint labels each of two sites has five, and holds out one."""
    run = "width = 0\ndepth = 0\nsplit = 'disjoint'\ndata = 'tests.test_lone_sample:enough'\n"
    done = run_demo(tmp_path, capsys, f"model = 'tests.test_lone_sample:by_the_batch'\n{run}")
    assert done.code == DataError.exit_code
    assert re.search(TOLD, " ".join(done.err.split()))
    assert not (tmp_path / "runs").exists()
    keeps = quick_settings(tmp_path, model="tests.test_lone_sample:by_what_it_keeps", **tomllib.loads(run))
    check_data(keeps, 2)


@pytest.mark.parametrize(("network", "told"), [("by_the_batch", True), ("by_what_it_keeps", False)])
def test_the_check_of_a_site_tells_it_before_it_joins(tmp_path: Path, network: str, told: bool) -> None:
    site = member(tmp_path, "seed", data=DATA)
    membership = tomllib.loads(site.membership.read_text())
    membership["run"] |= {"model": f"tests.test_lone_sample:{network}", "width": 0, "depth": 0}
    site.membership.write_text(tomli_w.dumps(membership))
    found = find("training step", site)
    assert (found.problem == "") != told
    assert bool(re.match(TOLD, found.problem)) == told

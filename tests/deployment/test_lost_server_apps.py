"""What becomes of runs when the ServerApp is killed."""

import os
import signal
from pathlib import Path

import pytest

from cli.processes import processes_of
from server.summary import read_rounds
from tests.deployment.federation import RUN_SECONDS, SHORT, Deployment, finish, reach

pytestmark = pytest.mark.long


def kill_server_app(made: Deployment) -> None:
    """kill -9 of the ServerApp alone."""
    home = Path(made.services["superexec"].environment["FLWR_HOME"])
    commands = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in processes_of(home)}
    found = [each for each, command in commands.items() if b"flwr-serverapp" in command]
    assert found
    for each in found:
        os.kill(each, signal.SIGKILL)


def test_kill_9_of_the_server_app_ends_the_run_and_leaves_its_finished_rounds_whole(federation: Deployment) -> None:
    run = federation.run("app", rounds=2, **SHORT)
    reach(federation.store("app"), 2, "train", federation)
    kill_server_app(federation)
    # It takes Flower a minute to find out. Meanwhile the run is played that the next test compares this one with.
    federation.run("undisturbed", rounds=2, **SHORT)
    assert run.wait(RUN_SECONDS) == 15
    told = federation.store("app").told()
    assert (told["phase"], told["exit-code"]) == ("failed", 15)
    assert [record.round for record in read_rounds(federation.store("app"))] == [1]
    assert federation.store("app").network(1)


def test_a_run_whose_server_app_was_killed_goes_on_to_the_bytes_of_one_that_was_not(federation: Deployment) -> None:
    """The runs of the test before."""
    finish(federation, federation.services["run-undisturbed"], "undisturbed")
    finish(federation, federation.run("app", rounds=2, **SHORT), "app")
    for number in (1, 2):
        expected, got = (federation.store(name).checkpoint_path(number) for name in ("undisturbed", "app"))
        assert got.read_bytes() == expected.read_bytes()

"""What becomes of runs when a site or the ServerApp is killed, or a site sleeps over the deadline."""

import os
import signal
from pathlib import Path

from cli.superlink import processes_of
from server.summary import read_rounds
from tests.deployment.federation import RUN_SECONDS, SHORT, Deployment, Process, finish, reach
from tests.waiting import Beside, wait_until

# Flower gives a site up after about a minute without a sign of life, and lets it in again then.
LEASE_SECONDS = 120.0


class Restarting(Beside):
    """What docker and systemd do: starts a service again whenever it has ended."""

    def __init__(self, service: Process) -> None:
        super().__init__(2.0)
        self.service = service

    def once(self) -> None:
        """Starts it, if it has ended."""
        if self.service.running is None or self.service.running.poll() is not None:
            self.service.start()


def test_the_others_go_on_after_kill_9_of_a_site_and_it_rejoins_by_itself(federation: Deployment) -> None:
    run = federation.run("site", rounds=4, **SHORT)
    reach(federation.store("site"), 1, "train", federation)
    federation.services["site-eu"].kill()
    with Restarting(federation.services["site-eu"]):
        rounds = finish(federation, run, "site")
        wait_until(
            lambda: "site-eu" in federation.online(), LEASE_SECONDS, lambda: f"site-eu is back\n{federation.logs()}"
        )
    assert [record.outcome for record in rounds] == ["merged"] * 4
    # A site that is back in time gets the message that it was killed over once more.
    assert "site-us" in rounds[0].weights
    assert sorted(rounds[-1].weights) == ["site-eu", "site-us"]


def test_a_site_that_answers_after_the_deadline_is_late_and_in_the_next_rounds(federation: Deployment) -> None:
    run = federation.run("late", rounds=3, **SHORT, **{"round-deadline-seconds": 40})
    reach(federation.store("late"), 1, "train", federation)
    federation.services["site-eu"].signal(signal.SIGSTOP)
    try:
        reach(federation.store("late"), 2, "train", federation)
    finally:
        federation.services["site-eu"].signal(signal.SIGCONT)
    rounds = finish(federation, run, "late")
    assert [record.outcome for record in rounds] == ["merged"] * 3
    assert [(refused.site, refused.reason) for refused in rounds[0].refused] == [("site-eu", "LATE")]
    assert sorted(rounds[0].weights) == ["site-us"]
    # Its answer to round 1 comes while round 2 is played, and is no answer to round 2.
    assert {refused.reason for record in rounds[1:] for refused in record.refused} <= {"LATE"}
    assert sorted(rounds[-1].weights) == ["site-eu", "site-us"]


def kill_server_app(made: Deployment) -> None:
    """kill -9 of the ServerApp alone."""
    home = Path(made.services["superexec"].environment["FLWR_HOME"])
    commands = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in processes_of(home)}
    found = [each for each, command in commands.items() if b"flwr-serverapp" in command]
    assert found
    for each in found:
        os.kill(each, signal.SIGKILL)


def test_kill_9_of_the_server_app_ends_the_run_and_leaves_its_finished_rounds_whole(federation: Deployment) -> None:
    run = federation.run("app", rounds=3, **SHORT)
    reach(federation.store("app"), 2, "train", federation)
    kill_server_app(federation)
    assert run.wait(RUN_SECONDS) == 15
    told = federation.store("app").told()
    assert (told["phase"], told["exit-code"]) == ("failed", 15)
    assert [record.round for record in read_rounds(federation.store("app"))] == [1]
    assert federation.store("app").network(1)


def test_a_run_whose_server_app_was_killed_goes_on_to_the_bytes_of_one_that_was_not(federation: Deployment) -> None:
    """The run of the test before."""
    for name in ("app", "undisturbed"):
        finish(federation, federation.run(name, rounds=3, **SHORT), name)
    for number in (1, 2, 3):
        expected, got = (federation.store(name).checkpoint_path(number) for name in ("undisturbed", "app"))
        assert got.read_bytes() == expected.read_bytes()

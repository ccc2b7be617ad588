"""What becomes of runs when a site is killed, or sleeps over the deadline."""

import os
import signal
from pathlib import Path

import pytest

from cli.processes import processes_of
from strategies.files import write_bytes, write_text
from tests.deployment.federation import SHORT, Deployment, Process, deployment, finish, reach
from tests.waiting import Beside, wait_until

pytestmark = pytest.mark.long

# Flower gives a site up after about a minute without a sign of life, and lets it in again then.
LEASE_SECONDS = 240.0
TRAIN = "Receiving: train message"


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
    # What the site had pulled when it was killed is waited for until the deadline.
    deadline = max(60.0, 2 * federation.setup_seconds)
    run = federation.run("site", rounds=4, **SHORT, **{"round-deadline-seconds": deadline})
    reach(federation.store("site"), 1, "train", federation)
    federation.services["site-eu"].kill()
    with Restarting(federation.services["site-eu"]):
        rounds = finish(federation, run, "site")
        wait_until(
            lambda: "site-eu" in federation.online(), LEASE_SECONDS, lambda: f"site-eu is back\n{federation.logs()}"
        )
    assert [record.outcome for record in rounds] == ["merged"] * 4
    # Killed before it had pulled its message, a site gets it when it is back in time; after that, never again.
    assert "site-us" in rounds[0].weights
    assert sorted(rounds[-1].weights) == ["site-eu", "site-us"]


def test_a_site_that_answers_after_the_deadline_is_late_and_in_the_next_rounds(federation: Deployment) -> None:
    # Shorter than the lease, beyond which the site is gone, not late, unless the machine is so slow that the other site
    # needs longer. The lease began with the last sign of life, which may lie half a minute before the stop.
    deadline = max(40.0, 2 * federation.setup_seconds)
    run = federation.run("late", rounds=3, **SHORT, **{"round-deadline-seconds": deadline})
    reach(federation.store("late"), 1, "train", federation)
    federation.services["site-eu"].signal(signal.SIGSTOP)
    try:
        reach(federation.store("late"), 2, "train", federation)
    finally:
        federation.services["site-eu"].signal(signal.SIGCONT)
    rounds = finish(federation, run, "late")
    assert [record.outcome for record in rounds] == ["merged"] * 3
    ((site, reason),) = [(refused.site, refused.reason) for refused in rounds[0].refused]
    assert (site, reason in ("LATE", "GONE")) == ("site-eu", True)
    assert sorted(rounds[0].weights) == ["site-us"]
    # Its answer to round 1 comes while round 2 is played, and is no answer to round 2.
    assert {refused.reason for record in rounds[1:] for refused in record.refused} <= {"LATE", "GONE"}
    assert sorted(rounds[-1].weights) == ["site-eu", "site-us"]


def test_a_site_whose_training_is_ended_says_so_at_once_and_is_in_the_next_round(federation: Deployment) -> None:
    """By SIGTERM, as by an operator: a ClientApp that dies is missed by Flower itself, after a minute."""
    site = federation.services["site-eu"]
    trainings, deadline = site.log.read_text(errors="replace").count(TRAIN), 480
    run = federation.run("ended", rounds=2, **SHORT, **{"round-deadline-seconds": deadline})
    wait_until(lambda: started(site, trainings), 240, lambda: f"site-eu trains\n{federation.logs()}")
    trains = newest_client_app(site)
    wait_until(lambda: catches(trains, signal.SIGTERM), 120, "the ClientApp takes being asked to end as such")
    os.kill(trains, signal.SIGTERM)
    first, second = finish(federation, run, "ended")
    assert [(refused.site, refused.reason) for refused in first.refused] == [("site-eu", "GONE")]
    assert sum(first.seconds.values()) < deadline
    assert sorted(second.weights) == ["site-eu", "site-us"]


def started(site: Process, trainings: int) -> bool:
    """Whether a ClientApp was started for one more message to train than there were."""
    received = site.log.read_text(errors="replace").split(TRAIN)
    return len(received) > trainings + 1 and "Start `flwr-clientapp` process" in received[-1]


def newest_client_app(site: Process) -> int:
    """The process of the ClientApp that the site started last; one that has answered may still be ending."""
    found = {number: Path(f"/proc/{number}") for number in processes_of(Path(site.environment["FLWR_HOME"]))}
    apps = [number for number, process in found.items() if b"flwr-clientapp" in (process / "cmdline").read_bytes()]
    return max(apps, key=lambda number: int((found[number] / "stat").read_text().rpartition(") ")[2].split()[19]))


def catches(process_id: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal."""
    caught = Path(f"/proc/{process_id}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_site_that_the_proxy_refuses_is_there_once_it_is_let_in() -> None:
    """Flower's SuperNode ends its main thread then, and not its process."""
    with deployment() as made:
        made.start("superlink")
        made.start("proxy")
        site = made.enrol("site-us", data="digits", partition=0, partitions=2)
        sites = made.server.proxy / "sites.map"
        known = sites.read_bytes()
        write_text(sites, "")
        wait_until(lambda: made.answer(site) == 403, 60, "the proxy does not know the site")
        made.start("site-us")
        log = made.services["site-us"].log
        ended = "supernode ended with code 1; it is started again"
        wait_until(lambda: ended in log.read_text(errors="replace"), 240, lambda: f"{ended}\n{made.logs()}")
        write_bytes(sites, known)
        wait_until(lambda: made.online() == ["site-us"], 240, lambda: f"the site is online\n{made.logs()}")

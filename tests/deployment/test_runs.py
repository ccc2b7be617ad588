"""A whole run over the real path, and what becomes of runs when a process is killed."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from cli.superlink import free_port, processes_of
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from tests.deployment.federation import (
    BIN,
    RUN,
    Deployment,
    Process,
    deployment,
    is_open,
)
from tests.deployment.samples import write_images, write_ward
from tests.waiting import Beside, wait_until

# As little work as a round can be: one trip to train, one to evaluate.
SHORT: dict[str, object] = {"align-at": "server", "probe-points": 0, "epochs": 1}
RUN_SECONDS = 300.0
# Flower gives a site up after about a minute without a sign of life, and lets it in again then.
LEASE_SECONDS = 120.0


@pytest.fixture(scope="module")
def federation() -> Generator[Deployment]:
    """A server and two sites, all running, one with a folder of images, one with a function; a round needs one site."""
    with deployment({**RUN, "min-sites": 1}) as made:
        made.start_server()
        made.enrol("site-us", data=str(write_images(made.root / "images", 0, 600)))
        made.enrol("site-eu", data=write_ward(made.site("site-eu").code, made.root / "vitals.csv", 600, 1200))
        for name in ("site-us", "site-eu"):
            made.start(name)
        wait_until(lambda: made.online() == ["site-eu", "site-us"], 120, lambda: f"two sites are online\n{made.logs()}")
        yield made


def finish(made: Deployment, run: Process, name: str) -> list[RoundRecord]:
    """Waits for the end of a run; its rounds."""
    assert run.wait(RUN_SECONDS) == 0, f"{run.tail()}\n{made.logs()}"
    return read_rounds(made.store(name))


def reach(store: RunStore, round_number: int, phase: str, made: Deployment) -> None:
    """Waits until the run is in that phase."""

    def there() -> bool:
        now = store.read_json("status.json") or {}
        return (now.get("round"), now.get("phase")) == (round_number, phase)

    wait_until(there, RUN_SECONDS, lambda: f"round {round_number} is in {phase}\n{made.logs()}")


class Restarting(Beside):
    """What docker and systemd do: starts a service again whenever it has ended."""

    def __init__(self, service: Process) -> None:
        super().__init__(2.0)
        self.service = service

    def once(self) -> None:
        """Starts it, if it has ended."""
        if self.service.running is None or self.service.running.poll() is not None:
            self.service.start()


def test_a_whole_run_leaves_network_report_and_barrier(federation: Deployment) -> None:
    (record,) = finish(federation, federation.run("whole", rounds=1, **{"min-sites": 2}), "whole")
    assert sorted(record.weights) == ["site-eu", "site-us"]
    assert record.barrier is not None
    assert record.merged is not None
    store = federation.store("whole")
    assert store.network(1)
    assert "<html" in (store.directory / "report.html").read_text()


def test_the_exporter_shows_the_barrier_of_the_run(federation: Deployment) -> None:
    port = free_port()
    federation.add(
        "exporter", [str(BIN / "fedrebasin"), "exporter", "--runs", str(federation.runs), "--port", str(port)]
    )
    federation.start("exporter")
    wait_until(lambda: is_open("127.0.0.1", port), 90, lambda: federation.services["exporter"].tail())
    shown = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    series = [line for line in shown.splitlines() if line.startswith("fedrebasin_") and "barrier" in line]
    assert series


def test_a_run_that_has_finished_is_left_as_it_is(federation: Deployment) -> None:
    before = federation.store("whole").checkpoint_path(1).stat().st_mtime
    assert federation.run("whole", rounds=1).wait(60) == 0
    assert federation.store("whole").checkpoint_path(1).stat().st_mtime == before


def test_two_runs_at_once_do_not_touch_each_other(federation: Deployment) -> None:
    runs = {name: federation.run(name, rounds=1, seed=seed, **SHORT) for seed, name in enumerate(("one", "two"))}
    rounds = {name: finish(federation, run, name) for name, run in runs.items()}
    assert all(record.outcome == "merged" for (record,) in rounds.values())
    networks = [federation.store(name).checkpoint_path(1).read_bytes() for name in rounds]
    assert networks[0] != networks[1]


@pytest.mark.parametrize("service", ["superlink", "proxy"])
def test_the_run_survives_kill_9_of_the_superlink_and_of_the_proxy(federation: Deployment, service: str) -> None:
    run = federation.run(service, rounds=2, **SHORT, **{"min-sites": 2})
    reach(federation.store(service), 1, "train", federation)
    federation.services[service].kill()
    federation.start(service)
    rounds = finish(federation, run, service)
    assert [sorted(record.weights) for record in rounds] == [["site-eu", "site-us"]] * 2


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
    run = federation.run("app", rounds=2, **SHORT)
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
        finish(federation, federation.run(name, rounds=2, **SHORT), name)
    for number in (1, 2):
        expected, got = (federation.store(name).checkpoint_path(number) for name in ("undisturbed", "app"))
        assert got.read_bytes() == expected.read_bytes()

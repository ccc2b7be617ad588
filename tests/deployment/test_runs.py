"""A whole run over the real path, one that is interrupted, and two at once."""

import signal

import httpx
import pytest

from cli.ports import free_port
from server.lock import is_played
from tests.deployment.federation import BIN, SHORT, Deployment, finish, is_open, reach
from tests.waiting import wait_until

pytestmark = pytest.mark.long


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
    wait_until(lambda: is_open("127.0.0.1", port), 240, lambda: federation.services["exporter"].tail())
    shown = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    series = [line for line in shown.splitlines() if line.startswith("fedrebasin_") and "barrier" in line]
    assert series


def test_a_run_that_has_finished_is_left_as_it_is(federation: Deployment) -> None:
    before = federation.store("whole").checkpoint_path(1).stat().st_mtime
    assert federation.run("whole", rounds=1).wait(240) == 0
    assert federation.store("whole").checkpoint_path(1).stat().st_mtime == before


def test_an_interrupted_run_is_stopped_and_goes_on_when_it_is_asked_for_again(federation: Deployment) -> None:
    run = federation.run("stopped", rounds=1, **SHORT)
    reach(federation.store("stopped"), 1, "train", federation)
    assert run.running is not None
    run.running.send_signal(signal.SIGINT)
    assert run.wait(240) == 130
    assert "interrupted; run 'stopped' is stopped" in run.tail()
    told = federation.store("stopped").told()
    assert (told["phase"], told["reason"], told["exit-code"]) == ("failed", "interrupted", 130)
    assert is_played(federation.store("stopped").directory) is False
    (record,) = finish(federation, federation.run("stopped", rounds=1, **SHORT), "stopped")
    assert record.outcome == "merged"


def test_two_runs_at_once_do_not_touch_each_other(federation: Deployment) -> None:
    runs = {name: federation.run(name, rounds=1, seed=seed, **SHORT) for seed, name in enumerate(("one", "two"))}
    rounds = {name: finish(federation, run, name) for name, run in runs.items()}
    assert all(record.outcome == "merged" for (record,) in rounds.values())
    networks = [federation.store(name).checkpoint_path(1).read_bytes() for name in rounds]
    assert networks[0] != networks[1]

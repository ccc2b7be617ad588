"""`fedrebasin server run`: what it plays, what it leaves as it is, and how it ends. No SuperLink answers here."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from threading import Event, Thread, Timer, get_ident
from typing import Any

import pytest
import tomli_w
import yaml

from cli.flower import SuperLink
from cli.interrupts import tell_interrupted, terminable, uninterrupted
from cli.ports import free_port
from cli.serve import Submitted, tell_started
from server.live import failure
from server.records import Score
from server.store import RunStore
from strategies.settings import parse_settings
from tests.commands import Ran, run
from tests.stores import COMPLETE, TRAINING, line, write_run

ROOT = Path(__file__).resolve().parent.parent
FIRST = {"model": "mlp", "width": 32, "depth": 2, "head": "ridge", "baselines": True}


def serve(tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, object], *options: str) -> Ran:
    """``server run`` of ``config`` in a federation that was made with `FIRST`, and whose SuperLink is not there."""
    if not (tmp_path / "server").exists():
        (tmp_path / "first.toml").write_text(tomli_w.dumps(FIRST))
        addresses = ("--proxy", "localhost:8443", "--superlink", f"localhost:{free_port()}")
        folder = ("--folder", tmp_path / "server")
        assert run(capsys, "server", "init", *addresses, "--run-config", tmp_path / "first.toml", *folder).code == 0
    (tmp_path / "run.toml").write_text(tomli_w.dumps(config))
    folders = ("--runs", tmp_path / "runs", "--folder", tmp_path / "server" / "operator")
    return run(capsys, "server", "run", tmp_path / "run.toml", *folders, *options)


def finished(tmp_path: Path, **config: object) -> RunStore:
    """A run that has played one round, all that it was asked for."""
    store = RunStore(write_run(tmp_path / "runs" / "autumn", [COMPLETE]))
    settings = parse_settings({"run": "autumn", "rounds": 1, "runs-dir": str(tmp_path / "runs"), **config})
    store.write_json("settings.json", settings.model_dump(by_alias=True))
    return store


def test_runs_lie_in_the_current_folder_and_in_containers_where_the_server_app_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(tmp_path, capsys, {**FIRST, "rounds": 1})
    finished(tmp_path, **FIRST)
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "server", "run", "run.toml", "--name", "autumn", "--folder", "server/operator")
    assert done.code == 0
    assert f"see {tmp_path / 'runs' / 'autumn'}" in done.out
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yml").read_text())["services"]
    there = str(PurePosixPath(services["run"]["working_dir"]) / "runs")
    assert any(each.endswith(f":{there}") for each in services["superexec"]["volumes"])
    assert any(each.endswith(f":{there}:ro") for each in services["run"]["volumes"])


def test_who_makes_a_federation_is_told_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "server", "init", "--proxy", "localhost:8443", "--folder", tmp_path / "server")
    assert "Next: start SuperLink, proxy and SuperExec" in done.out
    assert f"fedrebasin server approve REQUEST --fingerprint SHA256:… --folder {tmp_path / 'server'}" in done.out


def test_a_run_has_the_settings_of_its_file_and_what_differs_from_the_kits_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = serve(tmp_path, capsys, {"model": "mlp", "width": 16, "depth": 2})
    assert done.code == 15
    told = ("width = 16 (there 32)", "head = 'mean' (there 'ridge')", "baselines = false (there true)")
    assert [each for each in told if each not in done.err] == []
    assert "`fedrebasin server renew NAME --run-config FILE` tells each site" in done.err


def test_of_a_run_as_in_the_kits_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = serve(tmp_path, capsys, {**FIRST, "rounds": 9}, "--name", "autumn", "--sites", "3")
    assert "not as in federation.toml" not in done.err


def test_a_run_is_not_asked_for_fewer_sites_than_its_settings_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = serve(tmp_path, capsys, {**FIRST, "min-sites": 2}, "--sites", "1")
    assert done.code == 19
    assert "--sites is 1, and the run's settings have min-sites = 2" in done.err


def test_settings_that_need_more_sites_than_the_default_may_have_them_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private: dict[str, object] = {"model": "mlp", "align-at": "site", "start": "shared", "probe-points": 0}
    config = {**private, "privacy": "secure-aggregation"}
    assert serve(tmp_path, capsys, config, "--sites", "3").code == 15
    assert "min-sites" in serve(tmp_path, capsys, config).err


def test_what_is_wrong_with_an_option_is_not_laid_to_the_files_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = serve(tmp_path, capsys, {"run": "spring"}, "--name", "../autumn")
    assert "fedrebasin: setting 'run': expected letters" in named.err
    assert "run.toml:1: setting 'run': expected letters" in serve(tmp_path, capsys, {"run": "../autumn"}).err


def test_a_run_that_has_finished_is_left_as_it_is_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    done = serve(tmp_path, capsys, {"run": "autumn", "rounds": 1})
    assert done.code == 0
    assert "autumn: was finished before, and nothing was started; raise rounds to go on" in done.out
    assert "round 1 has accuracy 0.950, loss 0.200 nats, on 100 held-out samples of all sites; see" in done.out
    assert '"finished-before": true' in serve(tmp_path, capsys, {"run": "autumn", "rounds": 1}, "--format=json").out


def test_of_a_run_whose_last_round_is_not_its_best_the_best_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = COMPLETE.model_copy(update={"round": 2, "merged": Score(accuracy=0.9, loss=0.7, count=100)})
    store = finished(tmp_path)
    store.rounds_path.write_text(line(COMPLETE) + line(worse), encoding="utf-8")
    kept = store.checkpoint_path(1)
    store.make()
    kept.touch()
    done = serve(tmp_path, capsys, {"run": "autumn", "rounds": 2})
    told = f"on 100 held-out samples of all sites; round 1 has less loss than the last: its network is {kept}; see"
    assert f"round 2 has accuracy 0.900, loss 0.700 nats, {told}" in done.out


def test_a_finished_run_goes_on_with_more_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    done = serve(tmp_path, capsys, {"run": "autumn", "rounds": 2})
    assert done.code == 15
    assert "flwr run did not start the run" in done.err
    assert "Is it running? Start it, or give it a minute to come up" in done.err


def test_a_run_of_that_name_with_other_settings_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path, head="ridge")
    done = serve(tmp_path, capsys, {"run": "autumn", "rounds": 1})
    assert done.code == 13
    assert "holds a run with other settings: head was 'ridge' and is 'mean'" in done.err


def test_whoever_starts_a_run_is_told_what_it_waits_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = parse_settings({"run": "autumn", "min-sites": 3, "join-deadline-seconds": 90.0})
    tell_started(settings, RunStore(tmp_path / "autumn"))
    told = capsys.readouterr()
    assert "autumn: started; waits for 3 sites, at most 90 s." in told.err
    assert f"`fedrebasin watch autumn --runs {tmp_path}`" in told.err
    assert told.out == ""


def submitted(store: RunStore) -> Submitted:
    """A run that has just been submitted."""
    return Submitted(SuperLink(store.directory, dict(os.environ)), "1", store, store.told())


@pytest.mark.parametrize("code", [14, 21, 22])
def test_a_run_that_ends_early_ends_the_command_with_its_own_code(tmp_path: Path, code: int) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    playing = submitted(store)
    store.tell(failure("the disk is full", code))
    error = playing.early_end("finished:failed")
    assert (str(error), error.exit_code) == ("the run ended as finished:failed: the disk is full", code)


def test_how_the_run_ended_the_time_before_is_not_told_again(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], failure("the disk is full", 21)))
    error = submitted(store).early_end("finished:failed")
    assert error.exit_code == 15
    assert "the disk is full" not in str(error)


def test_a_start_that_left_the_status_as_it_was_ends_no_other_run(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    before = store.told()
    assert submitted(store).early_end("finished:failed").exit_code == 15
    assert store.told() == before


def test_that_a_run_was_interrupted_is_told_once_its_process_has_let_go(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    dying = ExitStack()
    dying.enter_context(store.held())
    gone = Timer(0.5, dying.close)
    gone.start()
    tell_interrupted(store)
    gone.join()
    assert (store.told()["phase"], store.told()["exit-code"]) == ("failed", 130)


@pytest.mark.parametrize("to_another_thread", [False, True])
def test_an_interrupt_waits_until_what_must_not_be_broken_off_is_done(to_another_thread: bool) -> None:
    """To whichever thread the kernel gives it."""
    done: list[str] = []
    over = Event()
    other = Thread(target=over.wait, daemon=True)
    other.start()

    def submit() -> None:
        with uninterrupted():
            signal.pthread_kill(other.ident if to_another_thread and other.ident else get_ident(), signal.SIGINT)
            time.sleep(0.2)  # until it has come to that thread
            done.append("submitted")

    with terminable(), pytest.raises(KeyboardInterrupt):
        submit()
    over.set()
    other.join()
    assert done == ["submitted"]

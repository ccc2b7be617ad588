"""A start finishes a run that lacks its report alone, and never tells its own failure as that of another run."""

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client.app import app
from server.app import main
from server.resume import FinishedError, OtherRunError, check_goes_on
from server.run import VoidError
from server.store import RunStore
from strategies.errors import SettingsError
from strategies.settings import Settings
from tests.inprocess import InProcessGrid, play_in_process, quick_settings
from tests.stores import COMPLETE, FINISHED, write_run
from tests.test_quorum import QUICK, failing

Config = dict[str, bool | int | float | str]


def start(settings: Settings, **changes: bool | float | str) -> None:
    """Starts the ServerApp as Flower does, with keys of the run config changed."""
    config: Config = settings.model_dump(by_alias=True) | {k.replace("_", "-"): v for k, v in changes.items()}
    main(
        InProcessGrid(app, settings, 2),
        Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config),
    )


def test_after_a_crash_between_the_last_round_and_the_report_the_same_start_finishes(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, **QUICK)
    store = play_in_process(settings)
    lines = store.rounds_path.read_bytes()
    assert store.told()["phase"] == "keep"
    assert len(check_goes_on(store, settings)) == 1
    start(settings)
    assert (store.told()["phase"], store.told()["round"]) == ("finished", 1)
    assert {"report.html", "result.json"} <= {path.name for path in store.directory.iterdir()}
    assert store.rounds_path.read_bytes() == lines
    with pytest.raises(FinishedError, match="all 1 rounds are finished"):
        start(settings)
    assert store.told()["phase"] == "finished"


def test_a_run_that_failed_in_its_last_round_fails_again(tmp_path: Path) -> None:
    in_vain = quick_settings(tmp_path, run="vain", max_void_rounds=5, **QUICK)
    with pytest.raises(VoidError, match="none of 1 rounds merged"):
        play_in_process(in_vain, tamper=failing({1}))
    too_often = quick_settings(tmp_path, run="often", rounds=2, max_void_rounds=0, **QUICK)
    with pytest.raises(VoidError, match=r"1 rounds in a row were void, the last of them round 2.* Raise rounds"):
        play_in_process(too_often, tamper=failing({2}))
    for settings, reason in ((in_vain, "none of 1 rounds merged"), (too_often, "1 rounds in a row were void")):
        with pytest.raises(VoidError, match=reason):
            start(settings)
        told = RunStore(tmp_path / settings.run).told()
        assert (told["phase"], told["exit-code"]) == ("failed", VoidError.exit_code)


def test_a_finished_run_stays_so_when_its_name_is_taken_for_other_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quick_settings(tmp_path, **QUICK)
    store = play_in_process(settings)
    store.status(1, "finished")
    before = store.told()
    with pytest.raises(OtherRunError, match="seed was 0 and is 5"):
        start(settings, seed=5)
    assert store.told() == before
    assert "seed was 0 and is 5" in caplog.text


@pytest.mark.parametrize("wrong", [{"run": "my run"}, {"rouns": 2}])
def test_a_wrong_setting_is_not_told_as_the_failure_of_a_run_that_was_played(
    tmp_path: Path, wrong: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    store = RunStore(write_run(tmp_path / "runs" / "run", [COMPLETE], FINISHED))
    with pytest.raises(SettingsError) as caught:
        start(Settings(), **wrong)
    assert store.told() == FINISHED
    assert str(caught.value) in caplog.text


def test_a_wrong_setting_is_not_told_as_the_failure_of_a_run_that_is_being_played(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    with store.held():
        store.status(0, "join")
        with pytest.raises(SettingsError):
            start(Settings(), runs_dir=str(tmp_path), rouns=2)
    assert store.told()["phase"] == "join"

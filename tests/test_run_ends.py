"""How a run ended is known, whoever is left to say it."""

import fcntl
import signal
from pathlib import Path
from threading import Timer

import pytest

from server.errors import StoreError
from server.follow import Folder
from server.lock import is_played
from server.store import RunStore
from tests.inprocess import quick_settings
from tests.killed import play_until_killed
from tests.stores import FINISHED, TRAINING, write_run


def state(run: Path) -> str:
    found = Folder.at(run).run()
    assert found is not None
    return found.state


def test_a_run_that_is_killed_is_dead_until_who_waited_for_it_says_that_it_failed(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, epochs=1)
    assert play_until_killed(settings, 1, "train") == -signal.SIGKILL
    store = RunStore(tmp_path / settings.run)
    assert state(store.directory) == "dead"
    before = store.told()
    store.tell_end("killed", 15)
    now = store.told()
    assert (now["phase"], now["reason"], now["exit-code"], now["deadline"]) == ("failed", "killed", 15, None)
    # Of the process that died, not of the one that tells it.
    assert now["resident_bytes"] == before["resident_bytes"]
    assert state(store.directory) == "failed"


def test_while_a_process_plays_it_nobody_else_says_that_it_ended(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    with store.held():
        assert is_played(store.directory)
        store.tell_end("a message was lost", 15)
        assert store.told()["phase"] == "train"
    assert is_played(store.directory) is False


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_what_a_run_said_of_its_end_stays(tmp_path: Path, end: str) -> None:
    store = RunStore(write_run(tmp_path / "run", [], {"phase": end, "reason": "its own"}))
    store.tell_end("another", 15)
    assert store.told() == FINISHED | {"phase": end, "reason": "its own"}


def test_a_run_that_never_began_is_not_made_up(tmp_path: Path) -> None:
    RunStore(tmp_path / "run").tell_end("interrupted", 130)
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_has_left_its_failure_behind(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], {"phase": "failed", "reason": "disk full", "exit-code": 21}))
    store.status(1, "train")
    assert (store.told()["reason"], store.told()["exit-code"]) == ("", 0)


def test_a_status_that_is_none_is_written_anew(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", []))
    (store.directory / "status.json").write_text("{")
    store.status(2, "join")
    assert store.told()["phase"] == "join"


def test_without_a_lock_nobody_can_tell(tmp_path: Path) -> None:
    assert is_played(tmp_path) is None
    (tmp_path / ".lock").mkdir()
    assert is_played(tmp_path) is None


def test_who_cannot_write_to_the_store_leaves_it_as_it_is(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    (store.directory / ".status.json.partial").mkdir()
    store.tell_end("interrupted", 130)
    assert store.told()["phase"] == "train"


def test_who_only_looks_keeps_nobody_from_playing(tmp_path: Path) -> None:
    store = RunStore(write_run(tmp_path / "run", [], TRAINING))
    with (store.directory / ".lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        looked = Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        looked.start()
        with store.held():
            assert is_played(store.directory)
        looked.join()


def test_a_second_process_is_still_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    with store.held(), pytest.raises(StoreError, match="another process plays it"), store.held():
        pass

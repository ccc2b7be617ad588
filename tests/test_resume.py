"""A run that ended in the middle goes on after its last whole round, and ends as if nothing had happened."""

import logging
import signal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from server.errors import StoreError
from server.resume import FinishedError, begin
from server.store import RunStore
from server.summary import read_rounds, summarise
from strategies.settings import Settings
from tests.inprocess import play_in_process, quick_settings
from tests.killed import BEFORE_RENAME, HALF_A_LINE, N_SITES, play_until_killed
from tests.stores import COMPLETE, write_run

# Those that ask sites nothing, and lines. That all is well between any two other trips, `test_between_trips` tells.
PHASES = ("merge", "probe", "keep")
# Steps of such a length lose what the rounds before have learnt; no site is left out for them.
FORGETFUL: dict[str, object] = {"keep_checkpoints": 2, "later_learning_rate": 2.0, "max_update_ratio": 0.0}


def three_rounds(directory: Path, **changes: object) -> Settings:
    base = {"rounds": 3, "epochs": 1, "later_epochs": 1, "width": 16, "align_at": "both", "distillation": 1.0}
    return quick_settings(directory, **{**base, **changes})


@cache
def undisturbed() -> tuple[bytes, ...]:
    with TemporaryDirectory(prefix="undisturbed-") as directory:
        return networks(play_in_process(three_rounds(Path(directory)), N_SITES))


def networks(store: RunStore) -> tuple[bytes, ...]:
    return tuple(store.checkpoint_path(record.round).read_bytes() for record in read_rounds(store))


@pytest.mark.parametrize("moment", [*PHASES, BEFORE_RENAME, HALF_A_LINE])
def test_killed_in_the_second_round_it_ends_as_if_undisturbed(tmp_path: Path, moment: str) -> None:
    settings = three_rounds(tmp_path)
    assert play_until_killed(settings, 2, moment) == -signal.SIGKILL
    store = play_in_process(settings, N_SITES)
    assert [record.round for record in read_rounds(store)] == [1, 2, 3]
    assert networks(store) == undisturbed()


@pytest.mark.parametrize("moment", ["train", "keep"])
def test_killed_in_the_first_round_it_begins_again(tmp_path: Path, moment: str) -> None:
    settings = three_rounds(tmp_path)
    assert play_until_killed(settings, 1, moment) == -signal.SIGKILL
    assert networks(play_in_process(settings, N_SITES)) == undisturbed()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_network_is_told_and_the_one_before_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=2), N_SITES)
    path = store.checkpoint_path(2)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-8] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level(logging.INFO, logger="fedrebasin"):
        play_in_process(three_rounds(tmp_path), N_SITES)
    assert f"round 2: {path} is damaged or gone" in caplog.text
    assert "resumes after round 1" in caplog.text
    assert networks(store) == undisturbed()
    assert (store.directory / "rounds.before.jsonl").read_text().count("\n") == 2


def test_without_any_whole_network_it_says_so_and_loses_nothing(tmp_path: Path) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=1), N_SITES)
    store.checkpoint_path(1).write_bytes(b"nothing")
    before = store.rounds_path.read_bytes()
    with pytest.raises(StoreError, match=r"none of the newest networks in .* is whole"):
        play_in_process(three_rounds(tmp_path), N_SITES)
    assert store.rounds_path.read_bytes() == before


def write_garbage(store: RunStore, line: int) -> None:
    """Puts NUL bytes, as a loss of power leaves them, in the place of one line, from 1; after the last as one more."""
    lines = store.lines()
    lines[line - 1 : line] = [b"\0\0\0\0"]
    store.rounds_path.write_bytes(b"".join(each + b"\n" for each in lines))


@pytest.mark.parametrize("line", [2, 3])
def test_a_line_that_cannot_be_read_is_told_and_put_aside(
    tmp_path: Path, line: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=2), N_SITES)
    write_garbage(store, line)
    content = store.rounds_path.read_bytes()
    with pytest.raises(StoreError, match=rf"rounds\.jsonl: line {line} is no record of a round.* Restore the file"):
        read_rounds(store)
    play_in_process(three_rounds(tmp_path), N_SITES)
    assert f"{store.rounds_path}: line {line} is no record of a round" in caplog.text
    assert networks(store) == undisturbed()
    assert (store.directory / "rounds.before.jsonl").read_bytes() == content


def test_what_is_put_aside_the_second_time_does_not_overwrite_the_first(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.rounds_path.write_bytes(b"one\ntwo\nhal")
    store.keep_rounds(1)
    with store.rounds_path.open("ab") as file:
        file.write(b"three\n")
    store.keep_rounds(0)
    assert (store.directory / "rounds.before.jsonl").read_bytes() == b"one\ntwo\nhal\none\nthree\n"
    assert store.rounds_path.read_bytes() == b""


def test_where_the_first_line_cannot_be_read_it_says_so_and_loses_nothing(tmp_path: Path) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=1), N_SITES)
    write_garbage(store, 1)
    before = store.rounds_path.read_bytes()
    with pytest.raises(StoreError, match=r"line 1 is no record .*none of the newest networks .* Restore"):
        play_in_process(three_rounds(tmp_path), N_SITES)
    assert store.rounds_path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "expected a JSON object, got 0 bytes"), (b"[]", "got list"), (None, "says of which run")],
)
def test_settings_that_cannot_be_read_are_told_with_their_file(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    store = RunStore(write_run(tmp_path / "run", [COMPLETE]))
    path = store.directory / "settings.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"settings\.json.*{told}.* [Rr]estore .* from a backup, or name another run"):
        begin(store, three_rounds(tmp_path))


def test_more_rounds_go_on_from_a_finished_run(tmp_path: Path) -> None:
    play_in_process(three_rounds(tmp_path, rounds=1), N_SITES)
    assert networks(play_in_process(three_rounds(tmp_path), N_SITES)) == undisturbed()


def test_a_finished_run_is_not_played_again(tmp_path: Path) -> None:
    settings = three_rounds(tmp_path, rounds=1)
    store = play_in_process(settings, N_SITES)
    store.status(1, "finished")
    with pytest.raises(FinishedError, match=r"all 1 rounds are finished .* Raise rounds to go on, or name another run"):
        begin(store, settings)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    play_in_process(three_rounds(tmp_path, rounds=1), N_SITES)
    with pytest.raises(StoreError, match="seed was 0 and is 1"):
        play_in_process(three_rounds(tmp_path, seed=1), N_SITES)


def test_two_processes_do_not_play_one_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    with store.held(), pytest.raises(StoreError, match="another process plays it"), RunStore(tmp_path / "run").held():
        pass
    with store.held():
        pass


def test_only_the_newest_networks_are_kept(tmp_path: Path) -> None:
    store = play_in_process(three_rounds(tmp_path, keep_checkpoints=2), N_SITES)
    kept = sorted(path.name for path in (store.directory / "checkpoints").iterdir())
    assert kept == ["round-0002.safetensors", "round-0003.safetensors"]
    assert len(read_rounds(store)) == 3


def test_besides_the_newest_networks_that_of_least_loss_is_kept_also_by_a_run_that_goes_on(tmp_path: Path) -> None:
    for rounds in (3, 5):
        settings = three_rounds(tmp_path, rounds=rounds, **FORGETFUL)
        store = play_in_process(settings, N_SITES)
    summary = summarise(store)
    assert summary.best < 4
    losses = {record.round: record.merged.loss for record in read_rounds(store) if record.merged}
    assert losses[summary.best] == min(losses.values())
    assert {path.stem for path in (store.directory / "checkpoints").iterdir()} == {
        *(f"round-{number:04d}" for number in (summary.best, 4, 5))
    }


def test_a_run_does_not_go_back_to_a_round_of_which_sites_keep_nothing(tmp_path: Path) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=5, **FORGETFUL), N_SITES)
    best = summarise(store).best
    for number in (4, 5):
        store.checkpoint_path(number).write_bytes(b"x")
    before = store.rounds_path.read_bytes()
    with pytest.raises(StoreError, match=r"none of the newest networks in .* is whole"):
        play_in_process(three_rounds(tmp_path, rounds=6, **FORGETFUL), N_SITES)
    assert store.rounds_path.read_bytes() == before
    assert store.checkpoint_path(best).exists()


def test_a_run_of_a_version_that_did_not_know_a_setting_goes_on(tmp_path: Path) -> None:
    store = play_in_process(three_rounds(tmp_path, rounds=1), N_SITES)
    told = store.read_json("settings.json")
    assert told is not None
    store.write_json("settings.json", {key: value for key, value in told.items() if key != "later-merge"})
    with pytest.raises(StoreError, match="later-merge was 'same' and is 'mean'"):
        begin(store, three_rounds(tmp_path, rounds=2, later_merge="mean"))
    assert len(begin(store, three_rounds(tmp_path, rounds=2)).rounds) == 1


def test_from_round_10000_on_the_last_networks_are_kept_still(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number in range(9997, 10003):
        store.checkpoint_path(number).touch()
    store.forget_before(10000)
    assert sorted(path.stem for path in folder.iterdir()) == ["round-10000", "round-10001", "round-10002"]

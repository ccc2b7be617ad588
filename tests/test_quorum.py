"""Rounds without enough replies: the model stays, the run goes on, and not for ever."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from client.app import app
from server.app import play
from server.resume import begin
from server.run import VoidError
from server.store import RunStore
from server.summary import read_rounds, summarise
from strategies.protocol import EVALUATE, TRAIN
from tests.attacks.federation import fail
from tests.inprocess import InProcessGrid, Tamper, play_in_process, quick_settings

QUICK: dict[str, object] = {"epochs": 1, "later_epochs": 1, "width": 16, "probe_points": 0}


def failing(turns: set[int]) -> Tamper:
    """Site 1 fails in these of its trainings, counted from 1."""
    trained = 0

    def tamper(partition: int, reply: Message) -> Message:
        nonlocal trained
        if partition == 1 and reply.metadata.message_type == TRAIN:
            trained += 1
            if trained in turns:
                fail(reply)
        return reply

    return tamper


def test_a_void_round_leaves_the_model_and_the_run_goes_on(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, rounds=3, **QUICK), tamper=failing({2}))
    assert [record.outcome for record in read_rounds(store)] == ["merged", "void", "merged"]
    assert store.checkpoint_path(1).read_bytes() == store.checkpoint_path(2).read_bytes()


def test_what_a_run_notes_in_its_first_round_is_in_its_record_though_that_is_void(tmp_path: Path) -> None:
    # Of a network without normalisation whose last layer is solved anew in each round.
    remarked = quick_settings(tmp_path, head="ridge", rounds=2, **QUICK)
    void, merged = read_rounds(play_in_process(remarked, tamper=failing({1})))
    assert (void.outcome, merged.outcome) == ("void", "merged")
    assert "without normalisation" in " ".join(void.notes)
    assert not merged.notes


@pytest.mark.parametrize("resumed", [False, True])
def test_who_took_part_before_and_is_gone_is_missing_though_the_run_was_resumed_in_between(
    tmp_path: Path, resumed: bool
) -> None:
    settings = quick_settings(tmp_path, rounds=3, **QUICK)
    if resumed:
        play_in_process(settings.model_copy(update={"rounds": 1}), 3)
        play_in_process(settings.model_copy(update={"rounds": 2}), 2)
        store = play_in_process(settings, 2)
    else:
        store = RunStore(tmp_path / "test")
        with store.held():
            play(Leaving(app, settings, 3), settings, store, begin(store, settings))
    assert [record.missing for record in read_rounds(store)] == [[], ["site-3"], ["site-3"]]


class Leaving(InProcessGrid):
    """Of three sites the last is gone from the second round on."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs the ClientApp on each at once."""
        asked = list(messages)
        if asked and asked[0].metadata.message_type == EVALUATE:
            self.n_sites = 2
        return super().push_messages(asked)


def test_after_a_void_first_round_sites_still_start_apart(tmp_path: Path) -> None:
    """Their first merge is then that of the next round, of the same networks."""
    whole = play_in_process(quick_settings(tmp_path / "whole", **QUICK))
    later = play_in_process(quick_settings(tmp_path / "later", rounds=2, **QUICK), tamper=failing({1}))
    void, merged = read_rounds(later)
    (first,) = read_rounds(whole)
    assert (void.outcome, merged.outcome) == ("void", "merged")
    assert merged.reference == first.reference
    assert list(merged.matchings) == list(first.matchings)
    (moved,), (expected,) = (each.matchings.values() for each in (merged, first))
    assert expected.gain > 0
    assert moved.gain == pytest.approx(expected.gain, rel=0.2)


def test_what_is_compared_with_is_measured_when_a_round_merges_for_the_first_time(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rounds=3, baselines=True, variants=True, **QUICK)
    store = play_in_process(settings, tamper=failing({1}))
    void, first, later = read_rounds(store)
    assert not void.baselines
    assert not later.baselines
    assert {"site-us", "ensemble", "naive", "aligned.recalibrated"} <= first.baselines.keys()
    accuracy = summarise(store).accuracy
    assert {"site-us", "site-eu", "ensemble", "round-3"} <= accuracy.keys()
    assert "round-1" not in accuracy


def test_a_run_in_which_nothing_merged_has_failed(tmp_path: Path) -> None:
    with pytest.raises(VoidError, match="none of 2 rounds merged"):
        play_in_process(quick_settings(tmp_path, rounds=2, min_sites=2, max_void_rounds=5), tamper=failing({1, 2}))


def test_too_many_void_rounds_end_the_run(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rounds=9, max_void_rounds=2, **QUICK)
    with pytest.raises(VoidError, match="3 rounds in a row were void, the last of them round 4") as caught:
        play_in_process(settings, tamper=failing(set(range(2, 99))))
    assert caught.value.exit_code == 22
    assert "CLIENT_ERROR" in RunStore(tmp_path / "test").rounds_path.read_text()
    # Started again it gets another chance, and takes it.
    assert len(read_rounds(play_in_process(settings))) == 9


def test_rounds_that_merge_between_void_ones_start_the_count_anew(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rounds=5, max_void_rounds=1, **QUICK)
    store = play_in_process(settings, tamper=failing({2, 4}))
    assert [record.outcome for record in read_rounds(store)] == ["merged", "void", "merged", "void", "merged"]


def test_a_site_that_is_gone_makes_later_rounds_void_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quick_settings(tmp_path, rounds=3, join_deadline_seconds=0.1, **QUICK)
    store = RunStore(tmp_path / "test")
    grid = InProcessGrid(app, settings, 2)

    def leave(partition: int, reply: Message) -> Message:
        if reply.metadata.message_type == "evaluate":
            grid.n_sites = 1
        return reply

    grid.tamper = leave
    with store.held():
        play(grid, settings, store, begin(store, settings))
    rounds = read_rounds(store)
    assert [record.outcome for record in rounds] == ["merged", "void", "void"]
    assert [record.missing for record in rounds] == [[], ["site-eu"], ["site-eu"]]
    assert "Not there any more: site-eu" in caplog.text

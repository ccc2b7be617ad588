"""Rounds after the first merge may be plain means: what was solved once need not be solved again."""

from pathlib import Path

from server.left import told_on
from server.summary import read_rounds
from strategies.settings import parse_settings
from tests.inprocess import play_in_process, quick_settings

ONCE: dict[str, object] = {
    "merge": "sequential",
    "head": "logistic",
    "mix": "best",
    "norm": "batch",
    "width": 8,
    "epochs": 2,
    "later_epochs": 1,
    "head_trips": 1,
    "probe_points": 0,
    "later_merge": "mean",
}


def test_the_first_round_is_as_without_it_and_those_after_it_are_means(tmp_path: Path) -> None:
    alone = play_in_process(quick_settings(tmp_path / "alone", **ONCE | {"rounds": 1}))
    store = play_in_process(quick_settings(tmp_path / "rounds", **ONCE | {"rounds": 2}))
    assert store.checkpoint_path(1).read_bytes() == alone.checkpoint_path(1).read_bytes()
    first, second = read_rounds(store)
    solved = {"sequential", "search", "logistic", "alone"}
    assert solved <= first.seconds.keys()
    assert not solved & second.seconds.keys()
    assert (bool(first.mix), first.head is not None) == (True, True)
    assert (second.mix, second.head) == ([], None)


def test_with_two_sites_whose_later_rounds_are_means_it_is_told_what_each_can_work_out() -> None:
    told = "with two sites, each can work out the other's network from the merge"
    once = parse_settings({"merge": "sequential", "head": "ridge", "later-merge": "mean", "rounds": 2})
    assert told in told_on(2, once)
    assert told not in told_on(2, once.model_copy(update={"rounds": 1}))
    assert told not in told_on(2, once.model_copy(update={"later_merge": "same"}))

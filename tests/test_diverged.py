"""A merged network that is finite, and whose losses are not or are huge, is none: the network before it stays."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Message

from server.store import RunStore
from server.summary import read_rounds
from strategies.bounds import Bounds
from strategies.protocol import ARRAYS, EVALUATE, MERGED, METRICS, N_EXAMPLES, TRAIN
from tests.inprocess import Tamper, play_in_process, play_in_vain, quick_settings

QUICK: dict[str, object] = {"epochs": 1, "later_epochs": 1, "probe_points": 0, "rounds": 3, "width": 16, "depth": 3}


def scaled(factor: float) -> Tamper:
    """Site 1 sends, in the first round, its network times that."""

    def tamper(partition: int, reply: Message) -> Message:
        of_round_1 = reply.metadata.message_type == TRAIN and reply.metadata.group_id == "1"
        if partition == 1 and of_round_1:
            record = reply.content.array_records[ARRAYS]
            for name, array in list(record.items()):
                record[name] = Array(array.numpy() * np.float32(factor))
        return reply

    return tamper


def without_a_loss(*partitions: int) -> Tamper:
    """These sites say so in the first round."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition in partitions and reply.metadata.message_type == EVALUATE and reply.metadata.group_id == "1":
            metrics = reply.content.metric_records[METRICS]
            count, *_ = np.atleast_1d(np.asarray(metrics[MERGED]))
            metrics[MERGED] = [float(count), math.inf, 0.0]
        return reply

    return tamper


def outcomes(store: RunStore) -> list[str]:
    return [record.outcome for record in read_rounds(store)]


@pytest.mark.parametrize("factor", [1e12, 1e4])
def test_a_merge_without_a_loss_costs_a_round_not_the_run(tmp_path: Path, factor: float) -> None:
    store = play_in_process(quick_settings(tmp_path, **QUICK), 2, scaled(factor))
    first, *later = read_rounds(store)
    assert first.outcome == "void"
    assert first.notes == ["void: the merge has no loss below 1,000,000 at 2 of 2 sites; the network before it stays"]
    assert [(record.outcome, len(record.weights), record.refused) for record in later] == [("merged", 2, [])] * 2
    assert all(record.merged is not None for record in later)


@pytest.mark.parametrize("privacy", ["none", "secure-aggregation"])
@pytest.mark.parametrize(("said_by", "first"), [((1,), "merged"), ((0, 2), "void")])
def test_most_sites_must_say_so_for_one_may_lie(
    tmp_path: Path, privacy: str, said_by: tuple[int, ...], first: str
) -> None:
    secure = {"privacy": privacy, "start": "shared", "align_at": "site", "min_sites": 3}
    changes = {**QUICK, "rounds": 2, **(secure if privacy != "none" else {})}
    store = play_in_process(quick_settings(tmp_path, **changes), 3, without_a_loss(*said_by))
    assert outcomes(store) == [first, "merged"]


def test_half_of_the_sites_are_not_most(tmp_path: Path) -> None:
    assert outcomes(play_in_process(quick_settings(tmp_path, **QUICK), 2, without_a_loss(1))) == ["merged"] * 3


def greater(partition: int, reply: Message) -> Message:
    """Site 1 sends, in every round, its network times 20, and says that it has most samples."""
    if partition == 1 and reply.metadata.message_type == TRAIN:
        reply.content.metric_records[METRICS][N_EXAMPLES] = 10**6
        record = reply.content.array_records[ARRAYS]
        for name, array in list(record.items()):
            record[name] = Array(array.numpy() * np.float32(20))
    return reply


@pytest.mark.parametrize("resumed", [False, True], ids=["in one go", "resumed"])
def test_what_is_within_the_bounds_and_spoils_a_deep_merge_is_refused_the_next_time(
    tmp_path: Path, resumed: bool
) -> None:
    """Through nine layers a network that is some times too large is as good as infinite."""
    settings = quick_settings(tmp_path, **{**QUICK, "width": 8, "depth": 9, "restarts": 1})
    if resumed:
        play_in_vain(settings.model_copy(update={"rounds": 1}), 3, greater)
    lost, *merged = read_rounds(play_in_process(settings, 3, greater))
    assert (lost.outcome, lost.is_lost, lost.refused) == ("void", True, [])
    for record in merged:
        assert (record.outcome, sorted(record.weights)) == ("merged", ["site-3", "site-us"])
        assert [(verdict.site, verdict.reason) for verdict in record.refused] == [("site-eu", "NORM")]
        assert record.notes == ["updates are held against 5 medians, since a merge before was none"]
    assert "the bound is 5 times the round's median" in merged[0].refused[0].detail


@pytest.mark.parametrize(
    ("ratio", "n_lost", "expected"),
    [(20.0, 0, 20.0), (20.0, 1, 5.0), (20.0, 2, 3.0), (20.0, 9, 3.0), (2.0, 1, 2.0), (0.0, 1, 0.0)],
)
def test_bounds_grow_tighter_with_merges_that_were_none(ratio: float, n_lost: int, expected: float) -> None:
    """And never looser; none stays none."""
    assert Bounds(max_ratio=ratio).tightened(n_lost) == Bounds(max_ratio=expected)

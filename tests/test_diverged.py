"""A merged network that is finite, and whose losses are not or are huge, is none: the network before it stays."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Message

from server.store import RunStore
from server.summary import read_rounds
from strategies.protocol import ARRAYS, EVALUATE, MERGED, METRICS, TRAIN
from tests.inprocess import Tamper, play_in_process, quick_settings

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

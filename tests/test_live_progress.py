"""The run store says at every moment what a run is doing, and afterwards what each round was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from models.errors import ModelError
from server.app import _tell_failure  # pyright: ignore[reportPrivateUsage]
from server.live import Status
from server.records import RoundRecord
from server.run import VoidError
from server.store import RunStore
from server.summary import read_rounds
from server.variance import variance_ratios
from strategies.files import sha256_of
from tests.attacks.federation import fail
from tests.inprocess import play_in_process, quick_settings

RESNET = {"model": "resnet20", "depth": 8, "width": 4, "epochs": 1, "align_at": "both"}
Told = list[dict[str, Any]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """All that ``status.json`` ever said, in order."""
    found: Told = []
    tell = RunStore.tell

    def watched(store: RunStore, changes: dict[str, object]) -> None:
        tell(store, changes)
        found.append(json.loads((store.directory / "status.json").read_text(encoding="utf-8")))

    monkeypatch.setattr(RunStore, "tell", watched)
    return found


def test_the_status_moves_with_every_reply(tmp_path: Path, told: Told) -> None:
    play_in_process(quick_settings(tmp_path, min_sites=3), n_sites=3)
    training = [status for status in told if status["phase"] == "train" and status["deadline"] is not None]
    assert [len(status["replied"]) for status in training if not status["refused"]] == sorted(
        len(status["replied"]) for status in training
    )
    assert {len(status["replied"]) for status in training} == {0, 1, 2, 3}
    assert all(status["asked"] == ["site-3", "site-eu", "site-us"] for status in training)
    assert all(status["deadline"] - status["updated"] <= 60 for status in training)


def test_while_sites_join_it_is_told_until_when_they_are_waited_for(tmp_path: Path, told: Told) -> None:
    play_in_process(quick_settings(tmp_path, join_deadline_seconds=40.0))
    joining = [status for status in told if status["phase"] == "join" and not status.get("joined")]
    assert 35 < joining[-1]["deadline"] - joining[-1]["updated"] <= 40
    assert (joining[-1]["asked"], joining[-1]["replied"]) == ([], [])


def test_a_refusal_is_told_as_soon_as_it_is_known(tmp_path: Path, told: Told) -> None:
    def first_fails(partition: int, reply: Message) -> Message:
        if partition or reply.metadata.message_type != "train":
            return reply
        fail(reply)
        return reply

    play_in_process(quick_settings(tmp_path, min_sites=2), 3, first_fails)
    refused = [status["refused"] for status in told if status["phase"] == "train"]
    assert {"site-us": "CLIENT_ERROR"} in refused


def test_what_is_told_parses_and_holds_the_memory_of_the_server(tmp_path: Path, told: Told) -> None:
    play_in_process(quick_settings(tmp_path, rounds=2))
    records = [Status.model_validate(each) for each in told]
    assert all(record.started == records[0].started > 0 for record in records)
    assert all(record.resident_bytes > 10_000_000 for record in records)
    assert records[-1].rounds == 2


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (VoidError("no round merged"), 22, "no round merged"),
        (ModelError("no such network"), 10, "no such network"),
        (FileNotFoundError("gone"), 1, "FileNotFoundError: gone"),
    ],
)
def test_an_error_that_nobody_foresaw_is_told_apart_from_a_wrong_set_up(
    tmp_path: Path, error: Exception, code: int, reason: str
) -> None:
    store = RunStore(tmp_path / "run")
    _tell_failure(store, error)
    told = store.told()
    assert (told["phase"], told["exit-code"], told["reason"]) == ("failed", code, reason)


def test_a_failure_keeps_what_was_known_of_the_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.status(4, "merge")
    store.tell({"phase": "failed", "reason": "disk full", "exit-code": 13})
    status = Status.model_validate(store.read_json("status.json"))
    assert (status.round, status.phase, status.reason, status.exit_code) == (4, "failed", "disk full", 13)
    assert status.started > 0
    assert status.has_ended


@pytest.mark.parametrize("align_at", ["server", "site", "both"])
def test_a_round_says_what_it_cost_and_whether_variance_collapsed(tmp_path: Path, align_at: str) -> None:
    store = play_in_process(quick_settings(tmp_path, **{**RESNET, "align_at": align_at}))
    record = one_round(store)
    assert all((matching.seconds or 0) > 0 for matching in record.matchings.values())
    assert len(record.variance) == 9
    assert all(0 < ratio < 5 for ratio in record.variance.values())
    assert record.recalibration_samples == sum(record.weights.values())
    assert record.checkpoint_bytes == store.checkpoint_path(1).stat().st_size
    assert record.checkpoint_sha256 == sha256_of(store.checkpoint_path(1))
    assert set(record.inputs_sha256) == set(record.weights)


@pytest.mark.parametrize(("head", "phases"), [("mean", set[str]()), ("counts", {"head"}), ("ridge", {"ridge"})])
def test_a_phase_is_told_where_there_is_something_to_do(tmp_path: Path, head: str, phases: set[str]) -> None:
    settings = quick_settings(tmp_path, head=head, epochs=1, width=16, probe_points=0, recalibrate_passes=1)
    seconds = one_round(play_in_process(settings)).seconds
    assert seconds.keys() - {"join", "train", "merge", "probe", "mean", "recalibrate", "evaluate"} == phases


def test_the_hash_of_an_input_is_that_of_the_file_that_the_site_keeps(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path))
    kept = {site: store.directory / "sites" / site for site in one_round(store).weights}
    hashes = {site: {sha256_of(path) for path in folder.rglob("*.safetensors")} for site, folder in kept.items()}
    assert all(digest in hashes[site] for site, digest in one_round(store).inputs_sha256.items())


def test_few_samples_are_counted_where_few_are_used(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, **RESNET, statistics_samples=50))
    assert one_round(store).recalibration_samples == 100


def test_a_variance_that_is_halved_is_told_as_one_half() -> None:
    ends = {"a": {"n.running_var": torch.tensor([2.0, 4.0])}, "b": {"n.running_var": torch.tensor([6.0, 4.0])}}
    merged = {"n.running_var": torch.tensor([2.0, 2.0]), "n.weight": torch.ones(2)}
    assert variance_ratios(merged, ends, {"a": 1.0, "b": 1.0}) == {"n": 0.5}
    # By weight: 3/4 of 6 and 1/4 of 10 are 7.
    assert variance_ratios(merged, ends, {"a": 3.0, "b": 1.0}) == {"n": pytest.approx(4 / 7)}


def test_records_of_before_are_read(tmp_path: Path) -> None:
    old: dict[str, object] = {
        "round": 1,
        "outcome": "void",
        "reference": "",
        "weights": {},
        "refused": [],
        "matchings": {},
    }
    assert RoundRecord.model_validate(old).checkpoint_bytes == 0


def test_the_time_that_the_baselines_took_is_told(tmp_path: Path) -> None:
    store = play_in_process(quick_settings(tmp_path, baselines=True))
    assert one_round(store).seconds["baselines"] > 0


def one_round(store: RunStore) -> RoundRecord:
    (record,) = read_rounds(store)
    return record

"""What one or two sites make up neither ends a run nor spoils the network, and nobody else is blamed for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

import server.merge
import server.run
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.errors import Reason, RefusedReply
from strategies.protocol import (
    ACROSS,
    ARRAYS,
    EVALUATE,
    FEATURES,
    GRAMS,
    MERGED,
    METRICS,
    OUTPUTS,
    RECALIBRATE,
    REPAIR,
    TRAIN,
)
from tests.attacks.federation import fail
from tests.inprocess import play_in_process, quick_settings

Lie = Callable[[str, np.ndarray], np.ndarray]
QUICK = {"epochs": 1, "later_epochs": 1, "probe_points": 0, "rounds": 2}
RESNET = {**QUICK, "model": "resnet20", "depth": 8, "width": 4, "statistics_samples": 64}
LIARS = {"site-eu", "site-3"}


def of_liars(message_type: str, lie: Callable[[Message], None], liars: tuple[int, ...]) -> Callable[..., Message]:
    """The replies of the sites of these numbers to such a message, changed by ``lie``."""

    def tamper(partition: int, reply: Message) -> Message:
        if partition in liars and reply.metadata.message_type == message_type:
            lie(reply)
        return reply

    return tamper


def about_arrays(told: Lie) -> Callable[[Message], None]:
    """Each array of a reply replaced by what ``told`` makes of its name and values."""

    def lie(reply: Message) -> None:
        for record in reply.content.array_records.values():
            for name, array in list(record.items()):
                record[name] = Array(told(name, array.numpy()))

    return lie


def filled(sums: float, others: float) -> Callable[[Message], None]:
    return about_arrays(lambda name, values: np.full_like(values, sums if name.endswith("sum") else others))


def sound_rounds(store: RunStore, liars: set[str]) -> list[RoundRecord]:
    """The rounds, all merged into finite networks that all other sites had part in."""
    rounds = read_rounds(store)
    for record in rounds:
        assert record.outcome == "merged"
        assert {verdict.site for verdict in record.refused} <= liars
        assert all(bool(tensor.isfinite().all()) for tensor in store.network(record.round).values())
        assert record.merged is not None
    return rounds


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (filled(1e300, 1e200), "1e+200 values"),
        (filled(0.0, 1e308), "1e+308 values"),
        (filled(1e200, 1e14), "a variance is negative"),
    ],
    ids=["overflows", "sums to infinity", "negative"],
)
def test_moments_that_overflow_are_refused(tmp_path: Path, lie: Callable[[Message], None], said: str) -> None:
    store = play_in_process(quick_settings(tmp_path, **RESNET), 4, of_liars(RECALIBRATE, lie, (1, 2)))
    for record in sound_rounds(store, LIARS):
        assert {verdict.site for verdict in record.refused} == LIARS
        assert all(verdict.reason == "MOMENTS" and said in verdict.detail for verdict in record.refused)


def test_moments_of_which_no_network_can_come_leave_units_as_they_were(tmp_path: Path) -> None:
    def about_the_merge(reply: Message) -> None:
        if MERGED in reply.content.array_records:
            about_arrays(lambda name, values: np.full_like(values, 1e200 if name.endswith("count") else 0.0))(reply)

    settings = quick_settings(tmp_path, **{**QUICK, "width": 16, "repair": True})
    sound_rounds(play_in_process(settings, 3, of_liars(REPAIR, about_the_merge, (1,))), {"site-eu"})


def test_more_samples_than_there_are_are_refused(tmp_path: Path) -> None:
    def lie(reply: Message) -> None:
        metrics = reply.content.metric_records[METRICS]
        for name in list(metrics):
            metrics[name] = [1.7e308, 1.0, 0.0]

    store = play_in_process(quick_settings(tmp_path, **QUICK), 4, of_liars(EVALUATE, lie, (1, 2)))
    for record in sound_rounds(store, LIARS):
        assert {verdict.site for verdict in record.refused} == LIARS


@pytest.mark.parametrize("head", ["ridge", "logistic"])
def test_features_without_measure_are_refused_and_nobody_else_is(tmp_path: Path, head: str) -> None:
    def grown(record: ArrayRecord) -> None:
        gram = record["gram"].numpy()
        factor = 1e307 / np.abs(gram).max() / len(gram)
        for name in ("gram", "targets"):
            record[name] = Array(record[name].numpy() * factor)

    def lie(reply: Message) -> None:
        for record in reply.content.array_records.values():
            grown(record)

    settings = quick_settings(tmp_path, **{**QUICK, "head": head, "head_trips": 2})
    store = play_in_process(settings, 4, of_liars(FEATURES, lie, (1,)))
    for record in sound_rounds(store, {"site-eu"}):
        assert [(verdict.site, verdict.reason) for verdict in record.refused] == [("site-eu", "MOMENTS")]


def test_sums_that_blow_up_one_layer_put_nobody_else_out(tmp_path: Path) -> None:
    """Behind a layer that is fitted to them, every honest site's sums would overflow."""

    def lie(reply: Message) -> None:
        grams, across = (reply.content.array_records[name] for name in (GRAMS, ACROSS))
        for layer in list(across):
            size = float(np.abs(grams[layer].numpy().diagonal()).mean())
            # What it fits the second layer to; of the third it says nothing.
            said = 0.0 if layer == "layers.2.0" else 1e10 * size
            across[layer] = Array(np.full_like(across[layer].numpy(), said))
            if not said:
                grams[layer] = Array(np.eye(*grams[layer].shape, dtype=np.float32))

    settings = quick_settings(tmp_path, **{**QUICK, "width": 16, "depth": 3, "merge": "sequential"})
    for record in sound_rounds(play_in_process(settings, 4, of_liars(OUTPUTS, lie, (1,))), {"site-eu"}):
        assert any("give weights that no network has" in note for note in record.notes)


def test_a_network_that_overflows_at_several_sites_is_no_sites_fault(tmp_path: Path) -> None:
    """Of two sites one sends a huge network: the features of the mean are too large for both, and the round is void."""
    huge = of_liars(TRAIN, about_arrays(lambda name, values: values * np.float32(1e6)), (1,))

    def tamper(partition: int, reply: Message) -> Message:
        return huge(partition, reply) if ARRAYS in reply.content.array_records else reply

    settings = quick_settings(tmp_path, **{**QUICK, "rounds": 1, "width": 16, "depth": 3, "head": "ridge"})
    with pytest.raises(server.run.VoidError):
        play_in_process(settings, 2, tamper)
    (record,) = read_rounds(RunStore(tmp_path / "test"))
    assert record.refused == []
    assert "query.features: what is asked about overflows at 2 of 2 sites: nobody is out for it" in record.notes


def test_sites_whose_question_holds_a_network_that_overflows_are_not_out(tmp_path: Path) -> None:
    """Finite tensors of one site, of which every site's units come out infinite: `repair` asks all about them."""

    def told(name: str, values: np.ndarray) -> np.ndarray:
        sizes = {"running_mean": -3e38, "running_var": 0.0}
        return np.full_like(values, sizes[part]) if (part := name.rpartition(".")[2]) in sizes else values

    settings = quick_settings(tmp_path, **{**RESNET, "rounds": 1, "repair": True, "reference": "site-us"})
    (record,) = sound_rounds(play_in_process(settings, 3, of_liars(TRAIN, about_arrays(told), (1,))), set())
    assert record.notes[0] == "query.repair: what is asked about overflows at 3 of 3 sites: nobody is out for it"


@pytest.mark.parametrize(("failing", "out"), [((1, 2), set[str]()), ((1,), {"site-eu"})])
def test_an_error_of_most_sites_is_not_theirs(tmp_path: Path, failing: tuple[int, ...], out: set[str]) -> None:
    settings = quick_settings(tmp_path, **{**QUICK, "rounds": 1, "head": "ridge"})
    (record,) = sound_rounds(play_in_process(settings, 3, of_liars(FEATURES, fail, failing)), out)
    assert {verdict.site for verdict in record.refused} == out
    note = "query.features: 2 of 3 sites answer with an error: nobody is out for it"
    assert (note in record.notes) == (not out)


def test_a_merge_that_is_not_finite_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it came from: the network of before stays, and the run goes on with it."""
    honest = server.merge.recalibrate
    calls: list[int] = []

    def broken_at_first(*args: object) -> dict[str, dict[str, object]]:
        calls.append(1)
        found = honest(*args)  # pyright: ignore[reportArgumentType]
        if len(calls) > 1:
            return found  # pyright: ignore[reportReturnType]
        return {name: {key: t * float("inf") for key, t in state.items()} for name, state in found.items()}

    monkeypatch.setattr(server.merge, "recalibrate", broken_at_first)
    store = play_in_process(quick_settings(tmp_path, **QUICK), 2)
    first, second = read_rounds(store)
    assert (first.outcome, second.outcome) == ("void", "merged")
    assert all(bool(tensor.isfinite().all()) for number in (1, 2) for tensor in store.network(number).values())


def test_what_a_site_says_forges_no_line_of_a_log() -> None:

    verdict = RefusedReply(Reason.CLIENT_ERROR, "site-eu", "code 9: no\nINFO : round 1: admitted 3\x1b[32m é")
    assert str(verdict) == verdict.args[0]
    assert str(verdict).endswith("code 9: no INFO : round 1: admitted 3 [32m é")
    assert "\n" not in verdict.detail

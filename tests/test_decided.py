"""The report tells what decided a merge: the guard, the search, and which last layer was kept, each by which losses."""

import re
from pathlib import Path

import pytest

from server.decided import Decided, decided, taken
from server.records import GuardRecord, HeadRecord, MixStep, RoundRecord, Score
from server.report import write_report
from server.store import RunStore
from tests.stores import COMPLETE, VOID, write_run

HEADING = "What decided the merge"
BY_RIDGE = Score(accuracy=0.9, loss=0.4, count=100)
BY_LOGISTIC = Score(accuracy=0.91, loss=0.5, count=100)


def step(towards: str, stage: str, lam: float, loss: float, before: float | None) -> MixStep:
    return MixStep(towards=towards, stage=stage, lam=lam, loss=loss, before=before)


def with_(**changes: object) -> RoundRecord:
    return COMPLETE.model_copy(update={"guard": {}, **changes})


def page(tmp_path: Path, *rounds: RoundRecord) -> str:
    report = write_report(RunStore(write_run(tmp_path / "run", rounds)))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report.read_text(encoding="utf-8")))


def test_what_the_guard_saw_is_told() -> None:
    assert decided(COMPLETE) == [Decided("guard: site-eu", "alignment kept", 1.3, 0.3)]


def test_sites_of_which_the_guard_saw_the_same_share_a_row() -> None:
    undone = GuardRecord(decision="undone", gain=1.0, naive_loss=0.2, aligned_loss=0.3)
    unmoved, unseen = (GuardRecord(decision=each, gain=0.0) for each in ("unmoved", "unseen"))
    guard = {"site-c": undone, "site-b": unmoved, "site-a": undone, "site-d": unseen}
    assert decided(with_(guard=guard)) == [
        Decided("guard: site-a, site-c", "alignment undone", 0.2, 0.3),
        Decided("guard: site-b", "nothing to align"),
        Decided("guard: site-d", "alignment kept, with nothing to judge it by"),
    ]


def test_where_no_network_was_moved_there_was_nothing_to_decide() -> None:
    unmoved = GuardRecord(decision="unmoved", gain=0.0)
    assert decided(with_(guard={"site-a": unmoved, "site-b": unmoved})) == []


def test_each_step_that_the_search_took_is_told_and_how_many_it_did_not() -> None:
    steps = [
        step("site-eu", "", 1.0, 0.8, 1.0),
        step("mean", "", 0.5, 0.7, 0.8),
        step("site-eu", "conv1", 0.0, 0.7, 0.7),
        step("site-us", "conv1", 0.125, 0.6, 0.7),
    ]
    assert decided(with_(mix=steps)) == [
        Decided("mix: all layers, towards site-eu", "λ = 1", 1.0, 0.8),
        Decided("mix: all layers, towards mean", "λ = 0.5", 0.8, 0.7),
        Decided("mix: conv1, towards site-us", "λ = 0.125", 0.7, 0.6),
        Decided("mix", "nothing taken on 1 of 4 lines"),
        Decided("mix", "taken: a mixture of the networks"),
    ]


@pytest.mark.parametrize("before", [0.7, None])
def test_a_network_that_was_taken_in_place_of_the_mixture_is_told_as_such(before: float | None) -> None:
    own = step("site-eu", "", 1.0, 0.1, before).model_copy(update={"as_it_is": True})
    steps = [step("site-us", "fc", 0.25, 0.7, 0.9), own]
    taken = Decided("mix", "taken instead: the network of site-eu as it is", before, 0.1)
    assert decided(with_(mix=steps))[1:] == [taken]


def test_a_search_that_ended_early_is_told_by_its_lines() -> None:
    row, came_of_it = decided(with_(mix=[step("mean", "", 1.0, 0.5, 0.9)]))
    assert row == Decided("mix: all layers, towards mean", "λ = 1", 0.9, 0.5)
    assert came_of_it == Decided("mix", "taken: the merge of all sites")


@pytest.mark.parametrize(
    ("lambdas", "expected"),
    [
        ((0.0, 0.0), "the network of site-us, renewed on all sites' samples"),
        ((1.0, 0.0), "the network of site-eu, renewed on all sites' samples"),
        ((1.0, 1.0), "the merge of all sites"),
        ((0.5, 0.0), "a mixture of the networks"),
        ((0.5, 1.0), "the merge of all sites"),
    ],
)
def test_what_came_of_the_search_is_said_in_words(lambdas: tuple[float, float], expected: str) -> None:
    towards_site, towards_mean = lambdas
    steps = [step("site-eu", "", towards_site, 0.8, 1.0), step("mean", "", towards_mean, 0.7, 0.8)]
    assert taken(with_(mix=steps)) == expected
    own = step("site-eu", "", 1.0, 0.1, 0.7).model_copy(update={"as_it_is": True})
    assert taken(with_(mix=[*steps, own])) == "the network of site-eu as it is"
    assert taken(COMPLETE) == ""


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (("ridge", 8, BY_LOGISTIC), Decided("last layer: logistic regression, 8 trips", "ridge kept", 0.4, 0.5)),
        (("logistic", 1, BY_LOGISTIC), Decided("last layer: logistic regression, 1 trip", "logistic kept", 0.4, 0.5)),
        (("ridge", 0, None), Decided("last layer: logistic regression, 0 trips", "ridge kept", 0.4, None)),
    ],
)
def test_a_last_layer_that_was_not_kept_is_told(head: tuple[str, int, Score | None], told: Decided) -> None:
    kept, trips, logistic = head
    record = HeadRecord(kept=kept, trips=trips, ridge=BY_RIDGE, logistic=logistic)
    assert decided(with_(head=record)) == [told]


def test_the_page_has_a_table_for_each_round_in_which_something_was_decided(tmp_path: Path) -> None:
    head = HeadRecord(kept="ridge", trips=8, ridge=BY_RIDGE, logistic=BY_LOGISTIC)
    text = page(tmp_path, COMPLETE, VOID, with_(round=3, mix=[step("site-eu", "", 0.5, 0.25, 1.25)], head=head))
    told = text.partition(HEADING)[2].partition("What went in")[0]
    assert re.findall(r"Round \d", told) == ["Round 1", "Round 3"]
    assert "guard: site-eu alignment kept 1.300 0.300" in told
    assert "mix: all layers, towards site-eu λ = 0.5 1.250 0.250" in told
    assert "last layer: logistic regression, 8 trips ridge kept 0.400 0.500" in told


def test_a_run_in_which_nothing_was_decided_says_nothing_of_it(tmp_path: Path) -> None:
    assert HEADING not in page(tmp_path, with_(), VOID)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("site-us", "the network of site-us"),
        ("global", "the network that was sent out"),
        ("given", "the given network"),
    ],
)
def test_a_reference_that_mix_stays_at_is_told_by_what_it_is(reference: str, told: str) -> None:
    steps = [step("site-eu", "", 0.0, 0.8, 0.8), step("mean", "", 0.0, 0.8, 0.8)]
    assert taken(with_(mix=steps, reference=reference)) == f"{told}, renewed on all sites' samples"

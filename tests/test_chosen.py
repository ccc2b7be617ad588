"""The report says what of the merge was chosen by the samples that judge it, and of a run without a choice nothing."""

import re
from html import unescape
from pathlib import Path

import pytest

from server.chosen import chosen
from server.records import GuardRecord, HeadRecord, MixStep, RoundRecord, Score
from server.report import write_report
from server.store import RunStore
from server.summary import read_rounds
from strategies.settings import Settings, parse_settings
from tests.inprocess import Played
from tests.stores import COMPLETE, VOID, write_run

HEADLINE = "The held-out samples also had a say in the merge: by their losses"
USUAL = parse_settings({})
PLAIN = COMPLETE.model_copy(update={"guard": {"site-eu": GuardRecord(decision="unmoved", gain=0.0)}})
STEP = MixStep(towards="site-eu", stage="", lam=0.5, loss=0.2, before=0.3)
BY_RIDGE = Score(accuracy=0.9, loss=0.4, count=100)
UNCOMPARED = HeadRecord(kept="ridge", trips=0, ridge=BY_RIDGE, logistic=None)
COMPARED = HeadRecord(kept="ridge", trips=8, ridge=BY_RIDGE, logistic=BY_RIDGE)
FACTOR = "the factor of the last layer's outputs was set, which changes losses and no answer"


def with_(**changes: object) -> RoundRecord:
    return PLAIN.model_copy(update=changes)


def head(name: str) -> Settings:
    return parse_settings({"head": name})


def page(tmp_path: Path, *rounds: RoundRecord, **settings: object) -> str:
    report = write_report(RunStore(write_run(tmp_path / "run", rounds, None, **settings)))
    return re.sub(r"\s+", " ", unescape(report.read_text(encoding="utf-8")))


def test_a_guard_that_judged_by_losses_chose() -> None:
    assert chosen([COMPLETE], USUAL).clauses == ["the guard kept or undid each alignment"]
    diverged = GuardRecord(decision="aligned", gain=1.0, aligned_loss=0.3)
    assert chosen([with_(guard={"site-eu": diverged})], USUAL).answers


@pytest.mark.parametrize("decision", ["unmoved", "unseen"])
def test_a_guard_that_saw_nothing_chose_nothing(decision: str) -> None:
    assert chosen([with_(guard={"site-eu": GuardRecord(decision=decision, gain=1.0)})], USUAL).clauses == []


def test_a_search_chose_on_every_line_also_where_it_took_nothing() -> None:
    nothing = STEP.model_copy(update={"lam": 0.0})
    (clause,) = chosen([with_(mix=[STEP, nothing]), with_(mix=[STEP])], USUAL).clauses
    assert clause == "mix chose the network, one point on each of 3 lines"
    own = STEP.model_copy(update={"as_it_is": True})
    (clause,) = chosen([with_(mix=[STEP, own])], USUAL).clauses
    assert clause.endswith("one point on 1 line, and then a site's own network instead")


def test_of_a_ridge_head_only_the_factor_is_chosen_and_that_changes_no_answer() -> None:
    found = chosen([PLAIN], head("ridge"))
    assert (found.clauses, found.answers, found.solved) == ([FACTOR], False, True)


def test_a_head_that_was_not_solved_has_no_factor() -> None:
    note = "the last layer stays as it was, without an answer of site-eu"
    assert chosen([with_(notes=[note])], head("ridge")).clauses == []
    assert chosen([with_(head=None, notes=[note])], head("logistic")).clauses == []
    assert chosen([with_(notes=[note]), PLAIN], head("ridge")).clauses == [FACTOR]


def test_a_logistic_head_was_chosen_where_it_was_held_against_ridge() -> None:
    compared = "the last layer by logistic regression was held against that by ridge regression"
    assert chosen([with_(head=UNCOMPARED)], head("logistic")).clauses == [FACTOR]
    assert chosen([with_(head=COMPARED)], head("logistic")).clauses == [compared, FACTOR]


def test_a_void_round_chose_nothing() -> None:
    assert chosen([VOID.model_copy(update={"mix": [STEP]})], head("ridge")).clauses == []


def test_the_page_says_so_below_its_headline_only_where_it_is_so(tmp_path: Path) -> None:
    assert HEADLINE not in page(tmp_path, PLAIN)
    text = page(tmp_path / "guard", COMPLETE)
    assert f"{HEADLINE} the guard kept or undid each alignment. This flatters accuracy and loss:" in text
    assert "training samples alone" not in text
    text = page(tmp_path / "ridge", PLAIN, head="ridge")
    assert f"{HEADLINE} {FACTOR}. This flatters the loss: samples" in text
    assert "The last layer itself was solved from training samples alone." in text


@pytest.mark.parametrize(
    ("changes", "n_clauses"),
    [
        ({"align_at": "none", "probe_points": 0}, 0),
        ({"align_at": "none", "probe_points": 0, "head": "ridge"}, 1),
        ({"align_at": "none", "probe_points": 0, "head": "logistic", "head_trips": 2}, 2),
        ({"align_at": "none", "probe_points": 0, "mix": "search", "mix_points": 3}, 1),
        ({"align_at": "server"}, 1),
    ],
    ids=str,
)
def test_the_records_of_a_real_run_tell_it(played: Played, changes: dict[str, object], n_clauses: int) -> None:
    store = played(**changes, width=8, depth=1, epochs=1)
    settings = Settings.model_validate(store.read_json("settings.json") or {"head": changes.get("head", "mean")})
    assert len(chosen(read_rounds(store), settings).clauses) == n_clauses

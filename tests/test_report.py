"""The report tells whoever did not run it when it was, on how many samples, and what each network is."""

import re
from pathlib import Path

from server.drawing import course_charts
from server.records import RefusedRecord, RoundRecord, Score
from server.report import write_report
from server.store import RunStore
from server.summary import summarise
from server.wording import SENTENCES, sentence
from strategies.names import ALIGNED, RECALIBRATED
from tests.stores import COMPLETE, VOID, write_run

ROUNDS = '<h2 id="rounds">Rounds</h2>'
NETWORKS = (*SENTENCES, "site-us", "site-us.corrected", "round-2")


def page(tmp_path: Path, *rounds: RoundRecord) -> str:
    run = write_run(tmp_path / "run", rounds)
    return " ".join(write_report(RunStore(run)).read_text(encoding="utf-8").split())


def rounds_of(count: int) -> list[RoundRecord]:
    return [COMPLETE, *(COMPLETE.model_copy(update={"round": n, "baselines": {}}) for n in range(2, count + 1))]


def table(text: str, after: str) -> list[str]:
    """The first cells of the first table after that heading."""
    rows = text.partition(after)[2].partition("</table>")[0].split("<tr")[2:]
    cells = [re.split("</td>|<div", row.partition("<td")[2])[0].partition(">")[2] for row in rows]
    return [cell.replace("\u200b", "").strip() for cell in cells]


def test_it_says_when_the_run_was_and_what_one_sample_is_worth(tmp_path: Path) -> None:
    text = page(tmp_path, COMPLETE, VOID)
    # Round 1 took 50.2 s, and ended at 22:15 of the day on which the clock of Unix reached 1.7 billion.
    assert "14 November 2023, 22:14 to 23:15 UTC" in text
    assert "These are 100 samples that no network was trained on: one of them more or less is 1.00 % of cases" in text


def test_a_run_of_before_that_says_no_time_has_no_date(tmp_path: Path) -> None:
    assert "UTC" not in page(tmp_path, COMPLETE.model_copy(update={"finished": 0.0}))


def test_each_network_has_a_sentence_of_its_own() -> None:
    assert "before anything was merged" in sentence("site-us")
    assert "what a merge must beat" in sentence("site-us.corrected")
    assert sentence("round-2") == "the network that round 2 merged"
    assert all(len(sentence(name)) > 20 for name in NETWORKS)


def test_of_thirty_rounds_only_the_first_merge_and_the_last_stand_above_the_charts(tmp_path: Path) -> None:
    text = page(tmp_path, *rounds_of(30))
    shown = table(text, "Accuracy and loss on the union")
    assert [name for name in shown if name.startswith("round-")] == ["round-1", "round-30"]
    assert 'The rounds in between, and what else there is to say of each: under <a href="#rounds">' in text
    assert table(text, ROUNDS) == [str(number) for number in range(1, 31)]


def test_of_few_rounds_each_stands_above_the_charts(tmp_path: Path) -> None:
    text = page(tmp_path, *rounds_of(3), VOID.model_copy(update={"round": 4}))
    shown = table(text, "Accuracy and loss on the union")
    assert [name for name in shown if name.startswith("round-")] == ["round-1", "round-2", "round-3"]
    assert "The rounds in between" not in text


def test_every_round_has_its_accuracy_and_its_loss(tmp_path: Path) -> None:
    scores = {n: Score(accuracy=n / 100, loss=n / 10, count=100) for n in range(1, 31)}
    rounds = [record.model_copy(update={"merged": scores[record.round]}) for record in rounds_of(30)]
    text = page(tmp_path, *rounds).partition(ROUNDS)[2]
    for score in scores.values():
        accuracy, loss = f"{score.accuracy:.3f}", f"{score.loss:.3f}"
        assert f'data-name="accuracy">{accuracy}</td> <td data-name="loss, nats">{loss}</td>' in text


def test_a_round_that_was_better_than_the_last_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.make()
    for number in (1, 2):
        store.checkpoint_path(number).touch()
    diverged = Score(accuracy=0.1, loss=2.3, count=100)
    told = "The network of round 1 has less loss than the last"
    second = COMPLETE.model_copy(update={"round": 2})
    assert told in page(tmp_path, COMPLETE, second.model_copy(update={"merged": diverged}))
    assert told not in page(tmp_path, COMPLETE.model_copy(update={"merged": diverged}), second)


def test_the_seconds_of_a_run_are_those_of_its_rounds_where_nobody_took_the_time(tmp_path: Path) -> None:
    run = RunStore(write_run(tmp_path / "run", [COMPLETE, VOID]))
    assert summarise(run).seconds == sum([*COMPLETE.seconds.values(), *VOID.seconds.values()])
    assert summarise(run, 7.0).seconds == 7.0


def test_the_row_of_the_merge_is_marked(tmp_path: Path) -> None:
    text = page(tmp_path, COMPLETE)
    assert '<tr class="merge"><td>round-1 <div class="note">the network that round 1 merged</div>' in text
    assert summarise(RunStore(tmp_path / "run")).merge == "round-1"


def test_a_merge_that_is_the_aligned_mean_has_that_name(tmp_path: Path) -> None:
    assert COMPLETE.merged is not None
    first = COMPLETE.model_copy(update={"baselines": {ALIGNED + RECALIBRATED: COMPLETE.merged}})
    summary = summarise(RunStore(write_run(tmp_path / "run", [first])))
    assert summary.merge == ALIGNED + RECALIBRATED
    assert "round-1" not in summary.accuracy
    text = page(tmp_path, first)
    assert "their units brought into one order" not in text.partition("what round 1 merged")[2]
    assert "BatchNorm statistics, if it keeps any, recomputed on the sites: what round 1 merged</div>" in text


def test_what_sites_do_alone_is_unknown_where_it_was_not_measured(tmp_path: Path) -> None:
    text = page(tmp_path, COMPLETE.model_copy(update={"baselines": {}}))
    assert "How a site does alone was not measured." in text
    assert "best site alone<b>unknown</b>" in text


def test_the_best_site_is_that_of_the_first_merge_in_every_round(tmp_path: Path) -> None:
    worse = Score(accuracy=0.85, loss=0.3, count=100)
    text = page(tmp_path, *rounds_of(2), COMPLETE.model_copy(update={"round": 3, "baselines": {}, "merged": worse}))
    assert "is right in 85.0 % of cases; the best site's own network, before anything was merged, was in 90.0 %" in text


def test_a_site_refused_at_a_later_question_is_not_told_as_left_out_of_the_merge(tmp_path: Path) -> None:
    refused = [*COMPLETE.refused, RefusedRecord(site="site-eu", reason="LATE", detail="evaluate: silent")]
    text = page(tmp_path, COMPLETE.model_copy(update={"refused": refused}), VOID)
    assert "left out" not in text
    # Under its name, and in its round; site-3 never gave a network, and what is void merged nobody.
    assert "round 1: late (its network is in the merge); round 2: late</td>" in text
    assert "site-3: not finite; site-eu: late (its network is in the merge)</td>" in text
    assert "site-eu: late</td>" in text


def test_no_site_has_a_share_under_a_rule_that_goes_by_no_weights(tmp_path: Path) -> None:
    assert 'data-name="share">75.0 %</td>' in page(tmp_path, COMPLETE)
    run = write_run(tmp_path / "median", [COMPLETE], rule="median")
    text = write_report(RunStore(run)).read_text(encoding="utf-8")
    assert text.count('data-name="share">–</td>') == 3


def test_the_best_site_alone_is_drawn_though_the_first_merge_has_no_score(tmp_path: Path) -> None:
    """One site whose loss is not finite is enough for that; the sites alone were measured beside it."""
    first, *later = rounds_of(3)
    chart, *_ = course_charts([first.model_copy(update={"merged": None}), *later])
    assert "best site alone" in chart

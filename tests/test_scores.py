"""What a merge is compared with is the sites alone, before the first merge; what was not measured is unknown."""

from pathlib import Path

import pytest
from flwr.app import Message, MetricRecord

from server.evaluation import pool
from server.records import PathRecord, RoundRecord, Score, SitePaths
from server.scores import network_scores, sites_alone
from server.summary import read_rounds
from server.tally import Tally
from strategies.protocol import EVALUATE, METRICS, unpack_sums
from tests.attacks.federation import fail
from tests.inprocess import Tamper, play_in_process, quick_settings
from tests.stores import COMPLETE, VOID

DRIFTED = PathRecord(lambdas=[0.0, 1.0], losses=[0.1, 0.6], accuracies=[0.96, 0.7], barrier=0.0)
# A later merge, no better than before, of copies that drifted: none of its networks is a site alone.
LATER = COMPLETE.model_copy(
    update={
        "round": 3,
        "reference": "global",
        "baselines": {},
        "merged": Score(accuracy=0.85, loss=0.3, count=100),
        "paths": {site: SitePaths(naive=DRIFTED, aligned=DRIFTED) for site in ("site-eu", "site-us")},
    }
)


def test_a_network_that_diverged_at_one_site_has_no_score() -> None:
    """The others' losses alone would praise it."""
    fine, diverged = MetricRecord({"x": [10.0, 5.0, 8.0]}), MetricRecord({"x": [10.0, float("nan"), 1.0]})
    answers = {site: unpack_sums(site, each) for site, each in (("a", fine), ("b", fine), ("c", diverged))}
    assert pool(answers) == {}
    del answers["c"]
    assert pool(answers)["x"].loss == 10.0


def scores(*rounds: RoundRecord) -> dict[str, float]:
    found = network_scores(rounds[-1], sites_alone(rounds))
    return {name: score.accuracy for name, score in found.items()}


def test_the_best_site_of_every_round_is_that_of_the_first_merge() -> None:
    found = scores(VOID, COMPLETE, LATER)
    assert found["best_site"] == 0.9
    assert found["sites_mean"] == pytest.approx(0.85)
    assert found["merged"] < found["best_site"]


def test_the_ends_of_a_round_have_a_name_of_their_own() -> None:
    found = scores(COMPLETE, LATER)
    assert found["best_before_merge"] == found["mean_before_merge"] == 0.7
    assert scores(COMPLETE)["best_before_merge"] == 0.9


def test_a_site_is_taken_prior_corrected_where_that_was_measured() -> None:
    corrected = {"site-eu.corrected": Score(accuracy=0.93, loss=0.2, count=100)}
    first = COMPLETE.model_copy(update={"baselines": COMPLETE.baselines | corrected})
    assert scores(first, LATER)["best_site"] == 0.93


def test_where_the_sites_were_not_measured_alone_the_best_is_unknown_whatever_was_probed() -> None:
    first = COMPLETE.model_copy(update={"baselines": {}})
    found = scores(first, LATER)
    assert not {"best_site", "sites_mean"} & set(found)
    # Nor does a later round with such scores stand in for the first.
    assert "best_site" not in scores(first, COMPLETE)


def test_a_tally_keeps_what_the_first_merge_measured() -> None:
    tally = Tally()
    for record in (VOID, COMPLETE, LATER, VOID):
        tally.add(record)
    assert tally.alone == sites_alone([COMPLETE])
    assert tally.merged == LATER


@pytest.mark.parametrize("align_at", ["server", "site", "both"])
def test_where_paths_are_probed_the_first_merge_also_measures_each_site_alone(tmp_path: Path, align_at: str) -> None:
    first, second = read_rounds(play_in_process(quick_settings(tmp_path, rounds=2, align_at=align_at)))
    assert set(first.baselines) == {"site-eu", "site-us"}
    assert second.baselines == {}
    # Without BatchNorm a path ends at the very network that came; it was measured in single precision.
    ((site, paths),) = first.paths.items()
    assert first.baselines[site].loss == pytest.approx(paths.aligned.losses[-1], rel=1e-4)
    assert first.seconds["alone"] > 0


def test_where_nothing_is_probed_no_network_is_shown_to_others_and_the_best_site_is_unknown(tmp_path: Path) -> None:
    (record,) = read_rounds(play_in_process(quick_settings(tmp_path, probe_points=0)))
    assert record.baselines == {}
    assert scores(record).keys() == {"merged"}


def alone(tmp_path: Path, tamper: Tamper) -> RoundRecord:
    """The record of a round of three sites, in which ``tamper`` sees what they say of each network alone."""

    def only_of_one(partition: int, reply: Message) -> Message | None:
        asked = reply.metadata.message_type == EVALUATE
        of_one = asked and set(reply.content.metric_records[METRICS]) <= {"site-3", "site-eu", "site-us"}
        return tamper(partition, reply) if of_one else reply

    settings = quick_settings(tmp_path, width=16, epochs=1, guard=False, round_deadline_seconds=0.5)
    (record,) = read_rounds(play_in_process(settings, 3, only_of_one))
    return record


def test_sites_alone_are_scored_on_the_same_samples_though_one_drops_out_in_between(tmp_path: Path) -> None:
    """The third site answers for the first network, and then falls silent."""

    def falls_silent(partition: int, reply: Message) -> Message | None:
        return None if partition == 2 and "site-3" not in reply.content.metric_records[METRICS] else reply

    record = alone(tmp_path, falls_silent)
    assert set(record.baselines) == {"site-3", "site-eu", "site-us"}
    (count,) = {score.count for score in record.baselines.values()}
    assert record.merged is not None
    assert count < record.merged.count


def test_a_network_for_which_most_sites_answer_with_an_error_has_no_score_and_the_others_keep_theirs(
    tmp_path: Path,
) -> None:
    """Nobody is out for it: the others are scored on all samples, and this one on a third of them would not compare."""

    def fails(partition: int, reply: Message) -> Message:
        if partition < 2 and "site-eu" in reply.content.metric_records[METRICS]:
            fail(reply)
        return reply

    record = alone(tmp_path, fails)
    assert set(record.baselines) == {"site-3", "site-us"}
    assert record.merged is not None
    assert {score.count for score in record.baselines.values()} == {record.merged.count}

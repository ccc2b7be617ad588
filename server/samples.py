"""The samples of a run: what each metric says, from the run's records and from nothing else."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from server import metrics as m
from server.contributions import shares
from server.follow import Run
from server.live import STATES, Status
from server.records import RoundRecord, Score
from server.scores import network_scores, sites_before
from server.tally import ADMITTED, Durations, Tally
from strategies.errors import Reason

# Series start at zero, since Prometheus sees no increase in a series that starts at one.
VERDICTS = (ADMITTED, *(reason.name.lower() for reason in Reason))
DECISIONS = ("aligned", "undone", "unmoved", "unseen")


class Sample(NamedTuple):
    """One value of a metric, with the values of its labels after that of the federation, in their order."""

    metric: m.Metric
    labels: tuple[str, ...]
    value: float | Durations


def run_samples(run: Run) -> Iterator[Sample]:
    """All samples of a run; of what is not known there is none."""
    tally = run.tail.tally
    yield from _of_settings(run)
    yield from (Sample(m.RUN_STATE, (each,), float(each == run.state)) for each in STATES)
    yield from _of_status(run.status)
    yield from _of_sites(run.status, tally)
    yield from _sums(tally)
    if tally.last is not None:
        yield Sample(m.ROUND_FINISHED, (), tally.last.finished)
        yield Sample(m.CHECKPOINT, (), tally.last.checkpoint_bytes)
    if tally.merged is not None:
        yield from _of_scores(tally.merged, tally.alone)
        yield from _of_merge(tally.merged, run.told.rule)
        yield from _of_matchings(tally.merged)
    yield Sample(m.UNREADABLE, (), run.tail.unreadable)
    yield Sample(m.UNREAD, (), run.tail.unread)


def _of_settings(run: Run) -> Iterator[Sample]:
    told = run.told
    texts = (told.model, told.data, told.start, told.align_at, told.merge, told.head, told.privacy)
    yield Sample(m.RUN, texts, 1)
    yield Sample(m.MIN_SITES, (), told.min_sites)
    yield Sample(m.PLANNED_ROUNDS, (), told.rounds)
    yield Sample(m.ROUND_DEADLINE, (), told.round_deadline_seconds)


def _of_status(status: Status) -> Iterator[Sample]:
    yield Sample(m.PHASE, (status.phase,), 1)
    yield Sample(m.CURRENT_ROUND, (), status.round)
    yield Sample(m.RUN_STARTED, (), status.started)
    yield Sample(m.PHASE_STARTED, (), status.since)
    yield Sample(m.PROGRESS, (), max(status.updated, status.since))
    yield Sample(m.RESIDENT, (), status.resident_bytes)
    if status.deadline is not None:
        yield Sample(m.PHASE_DEADLINE, (), status.deadline)


def _of_sites(status: Status, tally: Tally) -> Iterator[Sample]:
    late = {site for site, reason in status.refused.items() if reason == Reason.LATE.name}
    states: dict[str, set[str]] = {
        "joined": set(status.joined),
        "asked": set(status.asked),
        "replied": set(status.replied),
        "refused": status.refused.keys() - late,
        "late": late,
    }
    yield from (Sample(m.SITES, (state,), len(sites)) for state, sites in states.items())
    known = {site for site, _ in tally.replies}
    for site in sorted(known.union(*states.values())):
        yield from (Sample(m.SITE_STATE, (site, state), float(site in members)) for state, members in states.items())
        yield from (Sample(m.REPLIES, (site, verdict), tally.replies[site, verdict]) for verdict in VERDICTS)
        yield from (Sample(m.GUARD, (site, decision), tally.decisions[site, decision]) for decision in DECISIONS)
        yield Sample(m.RECEIVED, (site,), tally.received[site])
        yield Sample(m.SENT, (site,), tally.sent[site])


def _sums(tally: Tally) -> Iterator[Sample]:
    yield from (Sample(m.ROUNDS, (outcome,), count) for outcome, count in sorted(tally.rounds.items()))
    yield from (Sample(m.PHASE_DURATION, (phase,), durations) for phase, durations in sorted(tally.phases.items()))


def _of_scores(record: RoundRecord, alone: Mapping[str, Score]) -> Iterator[Sample]:
    for name, score in network_scores(record, alone).items():
        yield Sample(m.ACCURACY, (name,), score.accuracy)
        yield Sample(m.LOSS, (name,), score.loss)
    yield from (Sample(m.SITE_ALONE, (site,), score.accuracy) for site, score in alone.items())
    for held_out, scores in (("home", record.own), ("union", sites_before(record))):
        for site, score in scores.items():
            yield Sample(m.SITE_ACCURACY, (site, held_out), score.accuracy)
            yield Sample(m.SITE_LOSS, (site, held_out), score.loss)


def _of_merge(record: RoundRecord, rule: str) -> Iterator[Sample]:
    yield from (Sample(m.SITE_WEIGHT, (site,), share) for site, share in shares(record, rule).items())
    for site, paths in record.paths.items():
        if paths.naive is not None:
            yield Sample(m.BARRIER, (site, "naive"), paths.naive.barrier)
        yield Sample(m.BARRIER, (site, "aligned"), paths.aligned.barrier)
    yield from (Sample(m.VARIANCE, (layer,), ratio) for layer, ratio in record.variance.items())
    yield Sample(m.RECALIBRATION_SAMPLES, (), record.recalibration_samples)


def _of_matchings(record: RoundRecord) -> Iterator[Sample]:
    for site, guard in record.guard.items():
        if guard.naive_loss is not None and guard.aligned_loss is not None:
            yield Sample(m.GAIN, (site,), guard.naive_loss - guard.aligned_loss)
    for site, matching in record.matchings.items():
        yield Sample(m.OBJECTIVE, (site,), matching.objective)
        yield Sample(m.OBJECTIVE_GAIN, (site,), matching.gain)
        yield Sample(m.SWEEPS, (site,), matching.sweeps)
        yield Sample(m.MATCHING_DURATION, (site,), matching.seconds or 0.0)
        yield from (Sample(m.MOVED, (site, group), share) for group, share in matching.moved.items())

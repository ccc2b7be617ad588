"""A run at one moment, in one document: what `fedrebasin watch` shows."""

from pydantic import BaseModel

from server.contributions import reason_of, shares
from server.follow import Run
from server.records import BarrierRecord, RoundRecord
from server.scores import network_scores
from strategies.errors import Reason

WAITING, ANSWERED = "waiting", "answered"


class SiteNow(BaseModel, frozen=True):
    """One site: what it is doing, and what the last merge made of it. Barriers are nats, shares 0..1."""

    site: str
    state: str
    barrier_naive: float | None = None
    barrier_aligned: float | None = None
    accuracy_at_home: float | None = None
    share: float | None = None


class Snapshot(BaseModel, frozen=True):
    """The run now.

    state         active, finished, failed, or dead: by its own word active, and played by no process
    exit_code     with which it ended; None while it has not, or nobody knows
    seconds_left  until the deadline for replies or for sites to join; None while none are waited for
    undone        sites whose alignment the guard undid in the last merge: they are in it as they came
    """

    run: str
    federation: str
    round: int
    rounds: int
    state: str
    phase: str
    reason: str
    exit_code: int | None
    seconds_in_phase: float
    seconds_left: float | None
    replied: int
    asked: int
    sites: list[SiteNow]
    merged_round: int | None
    barrier: BarrierRecord | None
    undone: list[str]
    accuracy: dict[str, float]


def snapshot(run: Run, now: float) -> Snapshot:
    """The run at the time ``now``, in seconds since 1970."""
    status, merged, alone = run.status, run.tail.tally.merged, run.tail.tally.alone
    return Snapshot(
        run=run.told.run,
        federation=run.told.federation,
        round=status.round,
        rounds=run.told.rounds,
        state=run.state,
        phase=status.phase,
        reason=status.reason,
        exit_code=status.exit_code if status.has_ended else None,
        seconds_in_phase=max(0.0, now - status.since) if status.since else 0.0,
        seconds_left=None if status.deadline is None else max(0.0, status.deadline - now),
        replied=len(status.replied),
        asked=len(status.asked),
        sites=[_site(run, site) for site in sorted({*status.joined, *status.asked, *status.refused})],
        merged_round=merged.round if merged else None,
        barrier=merged.barrier if merged else None,
        undone=sorted(s for s, each in merged.guard.items() if each.decision == "undone") if merged else [],
        accuracy={name: score.accuracy for name, score in network_scores(merged, alone).items()} if merged else {},
    )


def _site(run: Run, site: str) -> SiteNow:
    merged = run.tail.tally.merged
    return SiteNow(site=site, state=_state(run, site), **(_last(merged, site, run.told.rule) if merged else {}))


def _state(run: Run, site: str) -> str:
    status = run.status
    if site in status.refused:
        reason = status.refused[site]
        return "late" if reason == Reason.LATE.name else f"refused: {reason_of(reason)}"
    if status.deadline is not None and site in status.asked:
        return ANSWERED if site in status.replied else WAITING
    return "joined"


def _last(merged: RoundRecord, site: str, rule: str) -> dict[str, float | None]:
    paths, own = merged.paths.get(site), merged.own.get(site)
    return {
        "barrier_naive": paths.naive.barrier if paths and paths.naive else None,
        "barrier_aligned": paths.aligned.barrier if paths else None,
        "accuracy_at_home": own.accuracy if own else None,
        "share": shares(merged, rule).get(site),
    }

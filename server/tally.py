"""What the finished rounds of a run add up to: a fold over its records, which keeps of them no more than the last."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace

from server.metrics import BUCKETS_SECONDS
from server.records import RoundRecord, Score
from server.scores import sites_alone

ADMITTED = "admitted"
# Phases of nearly every round. Their series start at zero: Prometheus sees no increase in one that begins with its
# first value.
FROM_ZERO = ("join", "train", "merge", "probe", "mean", "recalibrate", "evaluate")


@dataclass
class Durations:
    """A histogram of seconds: how many fell into each bucket, the last of which has no upper end."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.total += seconds

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus wants them: each upper end with all that is not above it."""
        ends = [*map(str, BUCKETS_SECONDS), "+Inf"]
        return [(end, float(sum(self.counts[: number + 1]))) for number, end in enumerate(ends)]


@dataclass
class Tally:
    """Sums over the finished rounds, the last of them, the last that merged, and the sites alone before any did."""

    rounds: Counter[str] = field(default_factory=lambda: Counter({"merged": 0, "void": 0}))
    replies: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    sent: Counter[str] = field(default_factory=Counter[str])
    received: Counter[str] = field(default_factory=Counter[str])
    phases: dict[str, Durations] = field(default_factory=lambda: {phase: Durations() for phase in FROM_ZERO})
    last: RoundRecord | None = None
    merged: RoundRecord | None = None
    alone: dict[str, Score] = field(default_factory=dict[str, Score])

    def add(self, record: RoundRecord) -> None:
        """Counts one more round. Its cost does not depend on how many there were."""
        self.rounds[record.outcome] += 1
        self.replies.update((site, ADMITTED) for site in record.weights)
        self.replies.update((refused.site, refused.reason.lower()) for refused in record.refused)
        self.decisions.update((site, guard.decision) for site, guard in record.guard.items())
        for site, traffic in record.traffic.items():
            self.sent[site] += traffic.sent
            self.received[site] += traffic.received
        for phase, seconds in record.seconds.items():
            self.phases.setdefault(phase, Durations()).add(seconds)
        self.see(record)

    def see(self, record: RoundRecord) -> None:
        """Takes the round for the last, without counting it."""
        self.last = record
        if record.outcome == "merged":
            self.alone = self.alone if self.merged else sites_alone([record])
            self.merged = record

    def again(self) -> "Tally":
        """The same counts, of a run of which no round is known yet."""
        return replace(self, last=None, merged=None, alone={})

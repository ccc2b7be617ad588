"""A run in one document: accuracy and loss of every network that was measured, and the barrier of the merge."""

from collections.abc import Iterable, Sequence
from math import isfinite
from operator import itemgetter

from pydantic import BaseModel, Field, ValidationError

from server.decided import taken
from server.errors import StoreError
from server.records import BarrierRecord, RoundRecord, Score
from server.store import RunStore
from strategies.names import ALIGNED, CORRECTED, ENSEMBLE, NAIVE, RECALIBRATED

POOLED = "pooled"
ROUND = "round-"


class Summary(BaseModel):
    """What `fedrebasin demo --format json` prints. Accuracies are 0..1, losses and barriers nats.

    ends   whether no line of the barrier rises above its worse end: then it is half the difference between the ends
    merge  under which name the network stands that the first merge came to; empty where none merged
    taken  what `mix` took in it; empty where it chose nothing
    best   the round whose network has least loss, which is kept; 0 where none was measured; see `best_round`
    """

    accuracy: dict[str, float]
    loss: dict[str, float]
    barrier: BarrierRecord | None
    ends: bool = False
    merge: str = ""
    taken: str = ""
    best: int = 0
    seconds: float = 0.0
    run: str = ""
    settings: dict[str, object] = Field(default_factory=dict[str, object])


def read_rounds(store: RunStore) -> list[RoundRecord]:
    """The finished rounds. Raises `StoreError` where a whole line is no record of one."""
    records, damage = readable_rounds(store)
    if damage:
        raise StoreError(f"{damage}. Restore the file from a backup; a run that goes on puts the line aside by itself")
    return records


def readable_rounds(store: RunStore) -> tuple[list[RoundRecord], str]:
    """The finished rounds up to the first whole line that is no record of one, and what is there; empty without one."""
    records: list[RoundRecord] = []
    for number, line in enumerate(store.lines(), 1):
        try:
            records.append(RoundRecord.model_validate_json(line))
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            return records, f"{store.rounds_path}: line {number} is no record of a round, but {line[:40]!r}: {what}"
    return records, ""


def summarise(store: RunStore, seconds: float | None = None, pooled: Score | None = None) -> Summary:
    """The summary of a run's rounds, with the pooled network's score where it was trained.

    ``seconds`` are those that it took; by default those of its rounds.
    """
    return summary_of(store, read_rounds(store), seconds, pooled)


def summary_of(store: RunStore, rounds: Sequence[RoundRecord], seconds: float | None, pooled: Score | None) -> Summary:
    """The same of ``rounds``, which are the run's and were read before."""
    merges = [record for record in rounds if record.outcome == "merged"]
    merge = _merge(merges)
    scores = _scores(merges, merge, pooled)
    probed = next((record for record in rounds if record.barrier is not None), None)
    return Summary(
        accuracy={name: score.accuracy for name, score in scores.items()},
        loss={name: score.loss for name, score in scores.items()},
        barrier=probed.barrier if probed else None,
        ends=probed is not None and _stays_below_ends(probed),
        merge=merge,
        taken=taken(merges[0]) if merges else "",
        best=best.round if (best := best_round(store, merges)) is not None else 0,
        seconds=sum(sum(record.seconds.values()) for record in rounds) if seconds is None else seconds,
        run=store.directory.name,
        settings=store.read_json("settings.json") or {},
    )


def best_round(store: RunStore, rounds: Iterable[RoundRecord]) -> RoundRecord | None:
    """Of the merges whose networks are there, the one with least loss on held-out samples, the last of equals.

    Where a site did not answer, the loss is on fewer samples and says nothing beside the others: only those on most
    samples count. None where nothing was measured.
    """
    found = [
        (record.merged, record)
        for record in rounds
        if record.outcome == "merged"
        and record.merged is not None
        and isfinite(record.merged.loss)
        and store.checkpoint_path(record.round).exists()
    ]
    most = max((score.count for score, _ in found), default=0)
    whole = [(score.loss, -record.round, record) for score, record in found if score.count == most]
    return min(whole, key=itemgetter(0, 1))[2] if whole else None


def better_round(store: RunStore, rounds: Sequence[RoundRecord]) -> RoundRecord | None:
    """The `best_round`, where it has less loss than the last merge, on as many samples."""
    last = next((record.merged for record in reversed(rounds) if record.outcome == "merged"), None)
    best = best_round(store, rounds)
    if last is None or best is None or best.merged is None or best.merged.count != last.count:
        return None
    # A loss that is not finite is more than any.
    return None if last.loss <= best.merged.loss else best


def less_loss(store: RunStore, rounds: Sequence[RoundRecord]) -> str:
    """Which round's network has less loss than the last, and where it lies; empty where none has."""
    better = better_round(store, rounds)
    if better is None:
        return ""
    return f"round {better.round} has less loss than the last: its network is {store.checkpoint_path(better.round)}"


def _scores(merges: list[RoundRecord], merge: str, pooled: Score | None) -> dict[str, Score]:
    """Every score by name: the sites, what they could do together, the means of the first merge, the later rounds."""
    baselines = merges[0].baselines if merges else {}
    means = (NAIVE, NAIVE + RECALIBRATED, ALIGNED, ALIGNED + RECALIBRATED)
    sites = [name for site in (sorted(merges[0].weights) if merges else ()) for name in (site, site + CORRECTED)]
    scores = {name: baselines[name] for name in (*sites, ENSEMBLE) if name in baselines}
    if pooled is not None:
        scores[POOLED] = pooled
    scores |= {name: baselines[name] for name in means if name in baselines}
    later = merges[1:] if merge in means else merges
    return scores | {f"{ROUND}{record.round}": record.merged for record in later if record.merged is not None}


def _stays_below_ends(probed: RoundRecord) -> bool:
    """Whether the worst line, as the networks came and aligned, is highest at one of its ends."""
    paths = probed.paths.values()
    ways = [path.naive for path in paths if path.naive is not None], [path.aligned for path in paths]
    worst = [max(way, key=lambda path: path.barrier) for way in ways if way]
    return bool(worst) and all(path.highest in {0.0, 1.0} for path in worst)


def _merge(merges: list[RoundRecord]) -> str:
    """The name of the first merge: among the means, unless its last layer or its mixture was made otherwise."""
    if not merges:
        return ""
    first = merges[0]
    # Without statistics to renew, a network is not measured with renewed ones.
    mean = ALIGNED + RECALIBRATED if ALIGNED + RECALIBRATED in first.baselines else ALIGNED
    return mean if first.merged is not None and first.merged == first.baselines.get(mean) else f"{ROUND}{first.round}"

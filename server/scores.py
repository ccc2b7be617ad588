"""How the merged network and the sites' own do on the union of held-out samples, as far as a run's records tell."""

from collections.abc import Collection, Iterable, Mapping

from server.records import RoundRecord, Score
from strategies.names import CORRECTED, ENSEMBLE, NAIVE, RECALIBRATED


def sites_alone(rounds: Iterable[RoundRecord]) -> dict[str, Score]:
    """Each site's network alone, as it came to the first round that merged; empty where that was not measured.

    With the site's class frequencies taken out of its logits, where that was measured: the single site that a merge
    must beat. No later round tells it, since sites then start from the merged network.
    """
    first = next((record for record in rounds if record.outcome == "merged"), None)
    if first is None:
        return {}
    measured = first.baselines
    return {site: measured.get(site + CORRECTED, measured[site]) for site in first.weights if site in measured}


def sites_before(record: RoundRecord) -> dict[str, Score]:
    """Each site's network as it goes into a merge: the end of its path, where one was probed.

    BatchNorm's statistics are those of all sites together there, and after the first merge the network is a copy of the
    merged one that was trained on: neither is a site alone. A reference that is a site is the start of any path.
    """
    count = record.merged.count if record.merged is not None else 0
    found: dict[str, Score] = {}
    for site, paths in record.paths.items():
        path = paths.naive or paths.aligned
        found[site] = Score(accuracy=path.accuracies[-1], loss=path.losses[-1], count=count)
        if record.reference in record.weights:
            found[record.reference] = Score(accuracy=path.accuracies[0], loss=path.losses[0], count=count)
    return dict(sorted(found.items()))


def network_scores(record: RoundRecord, alone: Mapping[str, Score]) -> dict[str, Score]:
    """By name what a merge is compared with, as far as known; ``alone`` is what `sites_alone` makes of the run.

    merged, naive, ensemble               of this round
    best_site, sites_mean                 over the sites alone
    best_before_merge, mean_before_merge  over the sites' networks as they went into this merge
    """
    before = sites_before(record).values()
    found = {
        "merged": record.merged,
        "best_site": _best(alone.values()),
        "sites_mean": _mean(alone.values()),
        "best_before_merge": _best(before),
        "mean_before_merge": _mean(before),
        "naive": record.baselines.get(NAIVE + RECALIBRATED, record.baselines.get(NAIVE)),
        "ensemble": record.baselines.get(ENSEMBLE),
    }
    return {name: score for name, score in found.items() if score is not None}


def _best(scores: Collection[Score]) -> Score | None:
    """The best accuracy of any, and the least loss of any: not always of the same one."""
    if not scores:
        return None
    accuracy, loss = max(score.accuracy for score in scores), min(score.loss for score in scores)
    return Score(accuracy=accuracy, loss=loss, count=next(iter(scores)).count)


def _mean(scores: Collection[Score]) -> Score | None:
    if not scores:
        return None
    accuracy = sum(score.accuracy for score in scores) / len(scores)
    loss = sum(score.loss for score in scores) / len(scores)
    return Score(accuracy=accuracy, loss=loss, count=next(iter(scores)).count)

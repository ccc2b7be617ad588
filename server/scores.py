"""How the merged network and the sites' own do on one and the same samples, as far as a round tells."""

from server.baselines import NAIVE, RECALIBRATED
from server.records import RoundRecord, Score
from strategies.protocol import ENSEMBLE


def scores_on_union(record: RoundRecord) -> dict[str, Score]:
    """Each site's own network on the union of held-out samples, where that was measured.

    As a baseline where there are any; else as the end of a probed path, where BatchNorm's statistics are those of all
    sites together. The reference's, when it is a site, is the start of any path.
    """
    if measured := {site: record.baselines[site] for site in record.weights if site in record.baselines}:
        return measured
    count = record.merged.count if record.merged is not None else 0
    found: dict[str, Score] = {}
    for site, paths in record.paths.items():
        path = paths.naive or paths.aligned
        found[site] = Score(accuracy=path.accuracies[-1], loss=path.losses[-1], count=count)
        if record.reference in record.weights:
            found[record.reference] = Score(accuracy=path.accuracies[0], loss=path.losses[0], count=count)
    return dict(sorted(found.items()))


def network_scores(record: RoundRecord) -> dict[str, Score]:
    """By name what a merge is compared with: merged, naive, best_site, sites_mean, ensemble, as far as known.

    ``best_site`` has the best accuracy of any site, and the least loss of any: not always of the same one.
    """
    sites = list(scores_on_union(record).values())
    found = {
        "merged": record.merged,
        "naive": record.baselines.get(NAIVE + RECALIBRATED, record.baselines.get(NAIVE)),
        "ensemble": record.baselines.get(ENSEMBLE),
    }
    if sites:
        accuracies, losses = [score.accuracy for score in sites], [score.loss for score in sites]
        count = sites[0].count
        found["best_site"] = Score(accuracy=max(accuracies), loss=min(losses), count=count)
        found["sites_mean"] = Score(accuracy=sum(accuracies) / len(sites), loss=sum(losses) / len(sites), count=count)
    return {name: score for name, score in found.items() if score is not None}

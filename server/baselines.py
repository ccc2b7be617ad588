"""What a merge must beat: each site alone, prior-corrected, their ensemble, and the mean without permutation."""

import math

from torch import nn

from server.evaluation import evaluate, pool
from server.heads import average_by_counts, solve_heads
from server.recalibration import recalibrate
from server.records import Score
from server.sites import Sites
from strategies.fed_rebasin import MergedRound
from strategies.mean import exact_mean
from strategies.protocol import CLASS_COUNTS, OWN, State

NAIVE = "naive"
ALIGNED = "aligned"
RECALIBRATED = ".recalibrated"
COUNTS = ".counts"
RIDGE = ".ridge"


def measure_baselines(sites: Sites, model: nn.Module, merged: MergedRound, round_number: int) -> dict[str, Score]:
    """The scores of all these networks on the union of held-out samples, by name."""
    states = dict(merged.raw)
    means = plain_means(merged)
    repaired = recalibrate(sites, model, means, round_number)
    networks = {**states, **means, **{name + RECALIBRATED: state for name, state in repaired.items()}}
    sums = evaluate(sites, networks, round_number, log_priors(merged), list(states))
    return {name: Score.of(each) for name, each in pool(sums).items()}


def measure_variants(sites: Sites, model: nn.Module, merged: MergedRound, round_number: int) -> dict[str, Score]:
    """The scores of both means, recalibrated, with each kind of last layer."""
    classes = sites.settings.classes
    means = plain_means(merged)
    by_counts = {
        NAIVE: average_by_counts(model, means[NAIVE], merged.raw, merged.replies, classes),
        ALIGNED: average_by_counts(model, means[ALIGNED], merged.aligned, merged.replies, classes),
    }
    repaired = recalibrate(sites, model, means, round_number)
    solved = solve_heads(sites, model, repaired, round_number)
    counted = recalibrate(sites, model, by_counts, round_number)
    networks = {name + RECALIBRATED + COUNTS: state for name, state in counted.items()}
    networks |= {name + RECALIBRATED + RIDGE: state for name, state in solved.items()}
    return {name: Score.of(each) for name, each in pool(evaluate(sites, networks, round_number)).items() if name != OWN}


def plain_means(merged: MergedRound) -> dict[str, State]:
    """The weighted means of the networks as they were trained and as they were aligned."""
    weights = list(merged.weights.values())
    return {
        NAIVE: exact_mean(list(merged.raw.values()), weights, merged.network),
        ALIGNED: exact_mean(list(merged.aligned.values()), weights, merged.network),
    }


def log_priors(merged: MergedRound) -> dict[str, list[float]]:
    """log p(y) of each site's training samples, with one sample added to each class so that none is impossible."""
    counts: dict[str, list[int]] = {}
    for site, one in merged.replies.items():
        said = one.metrics.get(CLASS_COUNTS)
        if isinstance(said, list):
            counts[site] = [int(count) + 1 for count in said]
    return {site: [math.log(count / sum(each)) for count in each] for site, each in counts.items()}

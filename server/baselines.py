"""What a merge must beat: each site alone, prior-corrected, their ensemble, and the mean without permutation."""

import math

from torch import nn

from server.evaluation import evaluate, pool
from server.heads import average_by_counts, solve_heads
from server.layers import merge_by_least_squares
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
LEAST_SQUARES = ".least-squares"


def measure_baselines(sites: Sites, model: nn.Module, merged: MergedRound, round_number: int) -> dict[str, Score]:
    """The scores of all these networks on the union of held-out samples, by name."""
    states = dict(merged.raw)
    means = plain_means(merged)
    repaired = recalibrate(sites, model, means, round_number)
    networks = {**states, **means, **{name + RECALIBRATED: state for name, state in repaired.items()}}
    sums = evaluate(sites, networks, round_number, log_priors(merged), list(states))
    return {name: Score.of(each) for name, each in pool(sums).items()}


def measure_variants(sites: Sites, model: nn.Module, merged: MergedRound, round_number: int) -> dict[str, Score]:
    """The scores of both means, recalibrated, with each kind of last layer and with layers merged in closed form."""
    classes = sites.settings.classes
    means = plain_means(merged)
    came = {NAIVE: merged.raw, ALIGNED: merged.aligned}
    variants = {
        name + RECALIBRATED + COUNTS: average_by_counts(model, mean, came[name], merged.replies, classes)
        for name, mean in means.items()
    }
    solved_layers = merge_by_least_squares(sites, model, means[ALIGNED], merged.aligned, round_number)
    variants[ALIGNED + RECALIBRATED + LEAST_SQUARES] = solved_layers
    variants |= {name + RECALIBRATED: mean for name, mean in means.items()}
    networks = recalibrate(sites, model, variants, round_number)
    plain = [NAIVE + RECALIBRATED, ALIGNED + RECALIBRATED]
    heads = solve_heads(
        sites, model, {n: s for n, s in networks.items() if n in plain or n.endswith(LEAST_SQUARES)}, round_number
    )
    networks = {name: state for name, state in networks.items() if name not in plain}
    networks |= {name + RIDGE: state for name, state in heads.items()}
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

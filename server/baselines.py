"""What a merge must beat: each site alone, prior-corrected, their ensemble, and the mean without permutation."""

import math

from torch import nn

from alignment.barrier import LossSums
from server.evaluation import evaluate, pool
from server.recalibration import keeps_statistics, recalibrate
from server.records import Score
from server.sites import Sites
from strategies.mean import exact_mean
from strategies.names import ALIGNED, NAIVE, RECALIBRATED
from strategies.protocol import CLASS_COUNTS, State
from strategies.rounds import MergedRound
from strategies.settings import Settings


def measure_baselines(sites: Sites, model: nn.Module, merged: MergedRound) -> dict[str, Score]:
    """The scores of all these networks on the union of held-out samples, by name.

    Means are measured with renewed statistics too, where the network keeps any.
    """
    states = {site: merged.raw.get(site, aligned) for site, aligned in merged.aligned.items()}
    means = plain_means(merged)
    renewed = recalibrate(sites, model, means) if keeps_statistics(model) else {}
    networks = {**states, **means, **{name + RECALIBRATED: state for name, state in renewed.items()}}
    sums = evaluate(sites, networks, log_priors(merged, sites.settings), list(states))
    return {name: Score.of(each) for name, each in pool(sums).items()}


def measure_alone(sites: Sites, merged: MergedRound) -> dict[str, Score]:
    """The score of each site's network alone, by site; one at a time, so that no message holds more than one.

    An aligned network stands for one that its site kept to itself: it is the same function. All scores are on the same
    samples: those of the sites that answered, and are not out of the round by the end. A network has none where one of
    these does not answer for it. Afterwards ``sites.answered`` are the sites whose samples they are.
    """
    told: dict[str, dict[str, LossSums]] = {}
    for site, aligned in merged.aligned.items():
        for each, sums in evaluate(sites, {site: merged.raw.get(site, aligned)}).items():
            told.setdefault(each, {})[site] = sums[site]
    stayed = {each: sums for each, sums in sorted(told.items()) if each not in sites.out}
    sites.answered = list(stayed)
    found = [site for site in merged.aligned if all(site in sums for sums in stayed.values())]
    pooled = pool({each: {site: sums[site] for site in found} for each, sums in stayed.items()})
    return {site: Score.of(each) for site, each in pooled.items()}


def plain_means(merged: MergedRound) -> dict[str, State]:
    """The weighted means of the networks as they were trained, where all are known so, and as they were aligned."""
    known = {NAIVE: merged.raw, ALIGNED: merged.aligned} if merged.all_raw else {ALIGNED: merged.aligned}
    weights = list(merged.weights.values())
    return {name: exact_mean(list(each.values()), weights, merged.network) for name, each in known.items()}


def log_priors(merged: MergedRound, settings: Settings) -> dict[str, list[float]]:
    """log p(y) of each site's training samples, with one sample added to each class so that none is impossible.

    Of it, the share that `logit-adjustment` has left in the networks.
    """
    left = max(0.0, 1 - settings.logit_adjustment)
    counts: dict[str, list[int]] = {}
    for site, one in merged.replies.items():
        said = one.metrics.get(CLASS_COUNTS)
        if isinstance(said, list):
            counts[site] = [int(count) + 1 for count in said]
    return {site: [left * math.log(count / sum(each)) for count in each] for site, each in counts.items()}

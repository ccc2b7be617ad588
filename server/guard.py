"""Never worse than FedAvg: an alignment is kept only where the networks on the way there show that it pays."""

from collections.abc import Mapping

from torch import nn

from server.baselines import ALIGNED, NAIVE
from server.evaluation import evaluate, pool
from server.recalibration import recalibrate
from server.records import GuardRecord, PathRecord, SitePaths
from server.sites import Sites
from strategies.fed_rebasin import FedRebasin
from strategies.rounds import MergedRound

Decisions = dict[str, GuardRecord]


def guard(merged: MergedRound, paths: Mapping[str, SitePaths]) -> tuple[MergedRound, Decisions]:
    """The round with each alignment undone that the probes speak against, and the decisions with what they saw.

    Looked at is the loss where the mean of the reference and the site's network would lie. A network in which nothing
    moved is as it came. Without probes, or where the site keeps to itself how its network was, alignment stands.
    """
    records = {site: _decide(merged, site, paths.get(site)) for site in merged.matchings}
    undone = [site for site, record in records.items() if record.decision == "undone"]
    return merged.unmoved(undone), records


def guard_mean(
    sites: Sites, model: nn.Module, strategy: FedRebasin, merged: MergedRound, decisions: Decisions, number: int
) -> tuple[MergedRound, Decisions]:
    """The round with all alignment undone where its mean has more loss than that of the networks as they came.

    Of three sites or more, lines from the reference do not tell of the mean of all. Both means have their statistics
    renewed; two trips. As it was where no network was moved, or one is not known as it came, or nobody answers.
    """
    if len(merged.aligned) < 3 or not merged.moved or merged.raw.keys() != merged.aligned.keys():
        return merged, decisions
    naive = merged.unmoved(merged.moved)
    means = {NAIVE: strategy.mean(naive), ALIGNED: strategy.mean(merged)}
    sums = pool(evaluate(sites, recalibrate(sites, model, means, number), number))
    if sums.keys() != means.keys():
        return merged, decisions
    without, having = (sums[name].loss / sums[name].count for name in means)
    if having <= without:
        return merged, decisions
    seen = {"decision": "undone", "naive_loss": without, "aligned_loss": having}
    return naive, {s: d.model_copy(update=seen) if s in merged.moved else d for s, d in decisions.items()}


def _decide(merged: MergedRound, site: str, paths: SitePaths | None) -> GuardRecord:
    gain = merged.matchings[site].gain
    if site not in merged.moved:
        return GuardRecord(decision="unmoved", gain=gain)
    if paths is None or paths.naive is None:
        return GuardRecord(decision="unseen", gain=gain)
    weights = merged.weights
    share = weights[site] / (weights[site] + weights.get(merged.reference, weights[site]))
    naive, aligned = (_loss_at(share, path) for path in (paths.naive, paths.aligned))
    # Ties keep the alignment: a network that is as good either way was moved for a reason.
    decision = "undone" if naive < aligned else "aligned"
    return GuardRecord(decision=decision, gain=gain, naive_loss=naive, aligned_loss=aligned)


def _loss_at(lam: float, path: PathRecord) -> float:
    nearest = min(range(len(path.lambdas)), key=lambda k: abs(path.lambdas[k] - lam))
    return path.losses[nearest]

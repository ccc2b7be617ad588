"""Never worse than FedAvg: an alignment is kept only where the networks on the way there show that it pays."""

from collections.abc import Mapping

from server.records import GuardRecord, PathRecord, SitePaths
from strategies.rounds import MergedRound


def guard(merged: MergedRound, paths: Mapping[str, SitePaths]) -> tuple[MergedRound, dict[str, GuardRecord]]:
    """The round with each alignment undone that the probes speak against, and the decisions with what they saw.

    Looked at is the loss where the mean of the reference and the site's network would lie. A network in which nothing
    moved is as it came. Without probes, or where the site keeps to itself how its network was, alignment stands.
    """
    records = {site: _decide(merged, site, paths.get(site)) for site in merged.matchings}
    undone = [site for site, record in records.items() if record.decision == "undone"]
    return merged.unmoved(undone), records


def _decide(merged: MergedRound, site: str, paths: SitePaths | None) -> GuardRecord:
    gain = merged.matchings[site].gain
    if site not in merged.moved:
        return GuardRecord(decision="unmoved", gain=gain)
    if paths is None or paths.naive is None:
        return GuardRecord(decision="aligned", gain=gain)
    weights = merged.weights
    share = weights[site] / (weights[site] + weights.get(merged.reference, weights[site]))
    naive, aligned = (_loss_at(share, path) for path in (paths.naive, paths.aligned))
    # Ties keep the alignment: a network that is as good either way was moved for a reason.
    decision = "undone" if naive < aligned else "aligned"
    return GuardRecord(decision=decision, gain=gain, naive_loss=naive, aligned_loss=aligned)


def _loss_at(lam: float, path: PathRecord) -> float:
    nearest = min(range(len(path.lambdas)), key=lambda k: abs(path.lambdas[k] - lam))
    return path.losses[nearest]

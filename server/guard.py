"""Never worse than FedAvg: an alignment is kept only where the networks on the way there show that it pays."""

from collections.abc import Mapping
from math import inf, isfinite

from torch import nn

from server.evaluation import evaluate, pool
from server.recalibration import recalibrate
from server.records import GuardRecord, PathRecord, SitePaths
from server.sites import Sites
from strategies.fed_rebasin import FedRebasin
from strategies.names import ALIGNED, NAIVE
from strategies.rounds import MergedRound

Decisions = dict[str, GuardRecord]
Guarded = tuple[MergedRound, Decisions]
# With all alignments, some of which were undone.
WHOLE = "aligned.all"


def guard(merged: MergedRound, paths: Mapping[str, SitePaths]) -> Guarded:
    """The round with each alignment undone that the probes speak against, and the decisions with what they saw.

    Looked at is the loss where the mean of the reference and the site's network would lie. A network in which nothing
    moved is as it came. Without probes, or where the site keeps to itself how its network was, alignment stands.
    """
    records = {site: _decide(merged, site, paths.get(site)) for site in merged.matchings}
    undone = [site for site, record in records.items() if record.decision == "undone"]
    return merged.unmoved(undone), records


def guard_mean(
    sites: Sites, model: nn.Module, strategy: FedRebasin, collected: MergedRound, guarded: Guarded
) -> Guarded:
    """The round of least loss among the ``guarded`` one, the ``collected`` one with all alignments, and that with none.

    Lines from the reference tell of the mean of all only where there are two networks, one of them is the reference,
    and the line between them could be measured.
    All means have their statistics renewed, which takes two trips. The guarded round stays where no network was moved,
    where one is not known as it came, where nobody answers, and on ties.
    """
    merged, decisions = guarded
    unseen = any(decision.decision == "unseen" for decision in decisions.values())
    told = len(merged.aligned) < 3 and merged.reference in merged.aligned and not unseen
    if told or not collected.moved or not collected.all_raw:
        return guarded
    naive = collected.unmoved(collected.moved)
    rounds = {ALIGNED: merged, WHOLE: collected, NAIVE: naive}
    rounds = {name: each for name, each in rounds.items() if name == NAIVE or each.moved}
    if merged.moved == collected.moved:
        del rounds[WHOLE]
    means = {name: strategy.mean(each) for name, each in rounds.items()}
    answers = evaluate(sites, recalibrate(sites, model, means))
    judged_by = "judged by the other sites' samples" if answers else "not judged by the mean of all"
    sites.all_told(answers, sites.merging, f"alignment is {judged_by}")
    sums = pool(answers)
    if not sums:
        return guarded
    # One that diverges has none.
    losses = {name: sums[name].loss / sums[name].count if name in sums else inf for name in means}
    best = min(rounds, key=lambda name: (losses[name], rounds[name].moved != merged.moved))
    # Against what was taken stands the best with, or without, alignment.
    aligned = min(loss for name, loss in losses.items() if name != NAIVE)
    kept = rounds[best]
    # What its line spoke against, if it is still undone, is so by what was seen on that line.
    judged = merged.moved | kept.moved
    seen = {
        "decision": "aligned" if kept.moved else "undone",
        "naive_loss": losses[NAIVE] if isfinite(losses[NAIVE]) else None,
        "aligned_loss": aligned if isfinite(aligned) else None,
    }
    return kept, {s: d.model_copy(update=seen) if s in judged else d for s, d in decisions.items()}


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
    # Not at an end: both lines have the same network there.
    nearest = min(range(1, len(path.lambdas) - 1), key=lambda k: abs(path.lambdas[k] - lam))
    return path.losses[nearest]

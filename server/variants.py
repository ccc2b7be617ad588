"""What the same networks would have merged to by other means: each alignment, each last layer, each merge of layers.

Names are those of `server.baselines` with what was done, in that order: ``weights.recalibrated.ridge``.
"""

from collections.abc import Iterator, Mapping

from torch import nn

from server.evaluation import evaluate, pool
from server.heads import average_by_counts, solve_heads
from server.layers import merge_by_least_squares
from server.recalibration import recalibrate
from server.records import Score
from server.sites import Sites
from strategies.fed_rebasin import FedRebasin
from strategies.mean import exact_mean
from strategies.names import ALIGNED, NAIVE, RECALIBRATED
from strategies.protocol import State
from strategies.rounds import MergedRound
from strategies.spool import PermutedState

WEIGHTS, THEN_WEIGHTS = "weights", "then-weights"
COUNTS, RIDGE, LEAST_SQUARES = ".counts", ".ridge", ".least-squares"


def measure_variants(sites: Sites, model: nn.Module, strategy: FedRebasin, merged: MergedRound) -> dict[str, Score]:
    """The scores, on the union of held-out samples, of every variant of this round's merge, by name."""
    means: dict[str, State] = {}
    for name, states in alignments(strategy, merged):
        mean = exact_mean(list(states.values()), list(merged.weights.values()), merged.network)
        means[name + RECALIBRATED] = mean
        by_counts = average_by_counts(model, mean, states, merged.replies, sites.settings.classes)
        means[name + RECALIBRATED + COUNTS] = by_counts
        if name in (ALIGNED, WEIGHTS):
            solved = merge_by_least_squares(sites, model, mean, states)
            if solved is not None:
                means[name + RECALIBRATED + LEAST_SQUARES] = solved
    networks = recalibrate(sites, model, means)
    others = {name: state for name, state in networks.items() if not name.endswith(COUNTS)}
    heads = solve_heads(sites, model, others)
    networks |= {name + RIDGE: state for name, state in heads.items()}
    sums = pool(evaluate(sites, networks))
    return {name: Score.of(each) for name, each in sums.items()}


def alignments(strategy: FedRebasin, merged: MergedRound) -> Iterator[tuple[str, Mapping[str, State]]]:
    """The networks by site: as they were trained, as aligned, and, of those that proposed, as weights align them."""
    if merged.all_raw:
        yield NAIVE, merged.raw
    yield ALIGNED, merged.aligned
    if strategy.align_at == "both":
        for name in (WEIGHTS, THEN_WEIGHTS):
            yield name, by_weights(strategy, merged, refine=name == THEN_WEIGHTS)


def by_weights(strategy: FedRebasin, merged: MergedRound, refine: bool) -> dict[str, State]:
    """Every network aligned by weight matching, from the identity or from its site's proposal."""
    found: dict[str, State] = {}
    for site, one in merged.replies.items():
        found[site] = one.state
        if site in merged.matchings:
            start = one.permutation if refine else None
            matching = strategy.match_by_weights(merged.network, one, start)
            found[site] = PermutedState(strategy.spec, matching.permutation, one.state)
    return found

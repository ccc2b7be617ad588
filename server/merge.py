"""The merged network of a round: the mean of the aligned networks, and what is solved, fitted or renewed in it."""

from torch import nn

from server.heads import average_by_counts, solve_heads
from server.layers import merge_by_least_squares, merge_in_sequence
from server.logistic import fit_head
from server.mixing import Search
from server.recalibration import keeps_statistics, recalibrate, repair
from server.sites import Sites
from server.stopwatch import Stopwatch
from strategies.fed_rebasin import FedRebasin
from strategies.protocol import MERGED, State
from strategies.rounds import MergedRound


def merge(strategy: FedRebasin, merged: MergedRound, search: Search, watch: Stopwatch, first: bool) -> State:
    """The network that the settings ask for, with its statistics and its last layer renewed; see `Settings.in_round`.

    Layers come before statistics, which must be those of the final layers, and the last layer is solved on both.
    """
    sites, model = search.sites, search.model
    settings = sites.settings.in_round(first)
    with watch.phase("mean"):
        state: State = strategy.mean(merged)
    if settings.merge == "least-squares":
        with watch.phase("least squares"):
            solved = merge_by_least_squares(sites, model, state, merged.aligned)
            state = state if solved is None else solved
    if settings.merge == "sequential":
        with watch.phase("sequential"):
            state = merge_in_sequence(sites, model, state, merged.aligned)
    if settings.head == "counts":
        with watch.phase("head"):
            state = average_by_counts(model, state, merged.aligned, merged.replies, settings.classes)
    if settings.mix != "mean":
        with watch.phase("search"):
            state = search.run(merged, state)
    with watch.phase("recalibrate"):
        state = renewed(sites, model, state, watch)
    if settings.repair:
        with watch.phase("repair"):
            state = repair(sites, model, state, merged.aligned, list(merged.weights.values()))
    if settings.head == "ridge":
        with watch.phase("ridge"):
            state = solve_heads(sites, model, {MERGED: state}).get(MERGED, state)
    if settings.head == "logistic":
        with watch.phase("logistic"):
            state, watch.head = fit_head(sites, model, state)
    return state


def renewed(sites: Sites, model: nn.Module, state: State, watch: Stopwatch) -> State:
    """``state`` with its statistics renewed; the watch is told on how many samples."""
    found = recalibrate(sites, model, {MERGED: state})[MERGED]
    if sites.settings.recalibrate_passes and keeps_statistics(model):
        watch.recalibration_samples = sites.samples_of(sites.settings.statistics_samples)
    return found

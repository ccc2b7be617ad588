"""The barriers of a round: what its networks lose on the lines between them, as they came and aligned."""

from torch import nn

from alignment.barrier import DEFINITION, barrier_from_losses
from server.lines import measure_line
from server.records import BarrierRecord, PathRecord, SitePaths
from server.sites import Sites
from strategies.protocol import State
from strategies.rounds import MergedRound

FLAT_POINTS = 3


def probe(sites: Sites, model: nn.Module, reference: State, candidate: State, points: int) -> PathRecord | None:
    """Loss and accuracy at ``points`` values of λ from 0 (reference) to 1 (candidate); None when no site answered.

    BatchNorm statistics are recomputed at every λ, on all sites: what is measured is the network that a merge would be.
    """
    lambdas = [number / (points - 1) for number in range(points)]
    line = measure_line(sites, model, (reference, candidate), lambdas)
    if line is None:
        return None
    return PathRecord.of(barrier_from_losses(lambdas, line.losses, line.accuracies))


def probe_all(sites: Sites, model: nn.Module, merged: MergedRound) -> dict[str, SitePaths]:
    """For each site but the reference's, the line to its network as it came and aligned; one if nothing moved."""
    paths: dict[str, SitePaths] = {}
    for site in merged.matchings:
        moved = site in merged.moved
        # Of a network that alignment leaves where it is there is one path, and few points show that it is flat.
        points = sites.settings.probe_points if moved else FLAT_POINTS
        aligned = probe(sites, model, merged.network, merged.aligned[site], points)
        naive = _probe_as_it_came(sites, model, merged, site) if moved else aligned
        if aligned is not None:
            paths[site] = SitePaths(naive=naive, aligned=aligned)
    return paths


def _probe_as_it_came(sites: Sites, model: nn.Module, merged: MergedRound, site: str) -> PathRecord | None:
    """The line to a site's network as it was trained, if that is known, to hold against the one just measured."""
    raw, told = merged.raw.get(site), sites.answered
    if raw is None:
        return None
    naive = probe(sites, model, merged.network, raw, sites.settings.probe_points)
    # Losses on other samples say nothing about those.
    unseen = f"the line to {site} as it came is not known"
    return naive if sites.all_told(sites.answered, told, unseen) else None


def greatest(paths: dict[str, SitePaths]) -> BarrierRecord | None:
    """The round's barriers: the greatest of its lines', naive and aligned; None without a line."""
    if not paths:
        return None
    known = [path.naive.barrier for path in paths.values() if path.naive is not None]
    # Without one site's, the greatest of the others would be compared with the greatest of all.
    naive = max(known) if len(known) == len(paths) else None
    aligned = max(path.aligned.barrier for path in paths.values())
    return BarrierRecord(naive=naive, aligned=aligned, definition=DEFINITION)

"""Whether units' variance collapses in a merge (REPAIR, arXiv 2211.08403, section 3)."""

from collections.abc import Mapping

import torch

from strategies.protocol import State

VARIANCE = ".running_var"


def variance_ratios(merged: State, ends: Mapping[str, State], weights: Mapping[str, float]) -> dict[str, float]:
    """By BatchNorm layer, Σ var(merged) / Σ var(ends) over its units, ends by weight: 1 is healthy, near 0 collapse.

    ``merged`` holds recalibrated statistics, over all sites' samples; the ends' are those that training left, over each
    site's own. Empty without BatchNorm.
    """
    share = {site: weights[site] / sum(weights.values()) for site in ends}
    found: dict[str, float] = {}
    for name in (name for name in merged if name.endswith(VARIANCE)):
        usual = sum(share[site] * state[name].double().sum().item() for site, state in ends.items())
        if usual > 0:
            found[name.removesuffix(VARIANCE)] = torch.sum(merged[name].double()).item() / usual
    return found

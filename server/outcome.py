"""What a merged network is worth, and whether it is one at all."""

from collections.abc import Mapping
from math import isfinite

from alignment.barrier import LossSums
from alignment.validate import not_finite
from server.evaluation import pool
from server.records import Score
from server.sites import Sites
from strategies.protocol import MERGED, OWN, State

# By site, the sums of each network that it was asked about.
Told = Mapping[str, Mapping[str, LossSums]]
# In nats, on average. No training makes a network so wrong, and from there it may not come back: gradients overflow.
MOST_LOSS = 1e6


def is_broken(sites: Sites, merged: State) -> bool:
    """Whether a tensor of the merged network is not finite, whatever it came from: then the round is void."""
    broken = not_finite(merged)
    if broken:
        sites.note(f"void: tensor {broken!r} of the merge is not finite; the network before it stays")
    return bool(broken)


def is_lost(sites: Sites, told: Told) -> bool:
    """Whether the merged network has no usable loss at more than half of the sites that answered: the round is void.

    Its tensors may be finite and what they compute not: no site that starts from it ever comes back. One site is not
    enough: it could make every round void by saying so.
    """
    lost = [site for site, found in told.items() if not _has_loss(found.get(MERGED))]
    most = 2 * len(lost) > len(told)
    if most:
        words = f"void: the merge has no loss below {MOST_LOSS:,.0f} at {len(lost)} of {len(told)} sites"
        sites.note(f"{words}; the network before it stays")
    return most


def merged_score(told: Told) -> Score | None:
    """How the merged network does on the union of held-out samples; none where it diverged, or nobody answered."""
    sums = pool(told)
    return Score.of(sums[MERGED]) if MERGED in sums else None


def own_scores(told: Told) -> dict[str, Score]:
    """How each site's own network does at home."""
    return {site: Score.of(found[OWN]) for site, found in told.items() if _is_known(found.get(OWN))}


def _is_known(sums: LossSums | None) -> bool:
    return sums is not None and isfinite(sums.loss)


def _has_loss(sums: LossSums | None) -> bool:
    return sums is not None and sums.loss < MOST_LOSS * sums.count

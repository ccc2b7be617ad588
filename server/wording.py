"""What the networks of a summary are, in plain sentences, for whoever did not run it."""

from server.summary import POOLED, ROUND
from strategies.names import ALIGNED, CORRECTED, ENSEMBLE, NAIVE, RECALIBRATED

AGAIN = "the same, its BatchNorm statistics, if it keeps any, recomputed on the sites"
SENTENCES = {
    ENSEMBLE: "all sites' networks side by side, their probabilities averaged: what is in them together",
    POOLED: "a network trained on all data in one place, which real sites cannot do",
    NAIVE: "the mean of the sites' networks as they came, their units in no common order",
    NAIVE + RECALIBRATED: AGAIN,
    ALIGNED: "the mean of the sites' networks, their units brought into one order",
    ALIGNED + RECALIBRATED: AGAIN,
}


def sentence(name: str) -> str:
    """What the network of that name is; a name that is none of ours is a site's."""
    if name in SENTENCES:
        return SENTENCES[name]
    if name.endswith(CORRECTED):
        site = name.removesuffix(CORRECTED)
        return f"the network of {site} with the class frequencies of its data taken out: what a merge must beat"
    if name.startswith(ROUND) and name.removeprefix(ROUND).isdigit():
        return f"the network that round {name.removeprefix(ROUND)} merged"
    return f"the network of {name} alone, before anything was merged"

"""What sites may be called, and what the networks are called that are measured beside theirs."""

import re
from collections import Counter
from collections.abc import Mapping

# A site's name becomes a file's name and a metric's label.
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What stands beside sites' networks in a message, or beside their scores in a record, what these begin with, and how a
# site's own score ends once its class frequencies are taken out.
RESERVED = re.compile(
    r"(config|metrics|arrays|goals|merged|own|statistics|reference|candidate|ensemble|naive|aligned|weights"
    r"|then-weights|mean|global|given|auto|largest|medoid|pooled|round-\d+)(\..*)?|.*\.corrected"
)

# Networks, in messages and in records; what stands with a dot ends the name of another.
NAIVE = "naive"
ALIGNED = "aligned"
ENSEMBLE = "ensemble"
RECALIBRATED = ".recalibrated"
CORRECTED = ".corrected"
# Where a line leads: to what `merge` made of all networks.
MIDDLE = "mean"


def is_site_name(name: str) -> bool:
    """Whether a site may be called so: `SITE_NAME`, and none of the names that mean something else."""
    return bool(SITE_NAME.fullmatch(name)) and not RESERVED.fullmatch(name)


def told_apart(called: Mapping[int, str]) -> dict[int, str]:
    """The names of nodes by id; where several have one name, each with its id behind it, and nameless ones as they are.

    Flower lets nodes have one name, and FedAvg takes the replies of all.
    """
    bearers = Counter(called.values())
    return {node: f"{name}-{node}" if name and bearers[name] > 1 else name for node, name in called.items()}

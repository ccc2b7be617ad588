"""The phases of a round, in their order, as its settings let expect them before it is over."""

from collections.abc import Callable, Mapping

from strategies.settings import Settings

Holds = Callable[[Settings, bool], bool]
# By their names in `server.stopwatch`; and where a round has them: by the settings, and whether none has merged yet.
PHASES: Mapping[str, Holds] = {
    "join": lambda s, first: True,
    "train": lambda s, first: True,
    "merge": lambda s, first: s.privacy != "secure-aggregation",
    "probe": lambda s, first: s.privacy != "secure-aggregation",
    "guard": lambda s, first: s.guards,
    "mean": lambda s, first: s.privacy != "secure-aggregation",
    "least squares": lambda s, first: s.merge == "least-squares",
    "sequential": lambda s, first: s.merge == "sequential",
    "head": lambda s, first: s.head == "counts",
    "search": lambda s, first: s.mix != "mean",
    "recalibrate": lambda s, first: True,
    "repair": lambda s, first: s.repair,
    "ridge": lambda s, first: s.head == "ridge",
    "logistic": lambda s, first: s.head == "logistic",
    "evaluate": lambda s, first: True,
    "alone": lambda s, first: s.mix != "mean" or (first and s.probes and not s.baselines),
    "baselines": lambda s, first: first and s.baselines,
    "variants": lambda s, first: first and s.variants,
    "keep": lambda s, first: True,
}


def phases(settings: Settings, first: bool) -> list[str]:
    """Those of a round, the ``first`` until one has merged; one that comes to nothing has fewer."""
    now = settings.in_round(first)
    return [name for name, holds in PHASES.items() if holds(now, first)]

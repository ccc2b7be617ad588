"""Which questions a run's settings call for: a site answers no others, and a report says of which there were none."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from strategies.protocol import (
    ALIGN,
    DESCRIBE,
    EVALUATE,
    FEATURES,
    GRAM,
    LOGISTIC,
    NETWORK,
    OUTPUTS,
    PROBE,
    RECALIBRATE,
    REPAIR,
    TRAIN,
)
from strategies.settings import Settings

# In a run with privacy. All else asks for networks, or statistics, that are not covered by it.
WITH_PRIVACY = frozenset({DESCRIBE, TRAIN, RECALIBRATE, EVALUATE})
# What calls for a message that says more than these, the same in words.
CALLED_FOR: Mapping[str, tuple[Callable[[Settings], bool], str]] = MappingProxyType(
    {
        NETWORK: (
            lambda settings: settings.aligns_at_sites and not settings.reference_is_known,
            "a reference that is a site's network, with align-at = 'site' or 'both'",
        ),
        ALIGN: (lambda settings: settings.aligns_at_sites, "align-at = 'site' or 'both'"),
        PROBE: (lambda settings: settings.measures_lines, "probe-points or mix other than 'mean'"),
        FEATURES: (
            lambda settings: settings.solves_head or settings.variants,
            "head = 'ridge' or 'logistic', or variants",
        ),
        LOGISTIC: (lambda settings: settings.head == "logistic", "head = 'logistic'"),
        GRAM: (lambda settings: settings.sends_grams, "merge = 'least-squares', or variants"),
        OUTPUTS: (lambda settings: settings.merge == "sequential", "merge = 'sequential'"),
        REPAIR: (lambda settings: settings.repair, "repair"),
    }
)


def lacking(settings: Settings, message_type: str) -> str:
    """What would have to be set for such a message, in words; empty where it is. `privacy` is not looked at here."""
    holds, words = CALLED_FOR.get(message_type, (lambda _: True, ""))
    return "" if holds(settings) else words

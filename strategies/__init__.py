"""Align, then average: the Flower strategy and its parts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strategies.fed_rebasin import FedRebasin, Sampling

__all__ = ["FedRebasin", "Sampling"]


def __getattr__(name: str) -> object:
    """The strategy, imported when it is first asked for: what needs the settings alone need not hold torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from strategies import fed_rebasin

    return getattr(fed_rebasin, name)

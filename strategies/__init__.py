"""Align, then average: the Flower strategy and its parts."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strategies.fed_rebasin import FedRebasin
    from strategies.recalibration import Recalibration, recalibration_reply

__all__ = ["FedRebasin", "Recalibration", "recalibration_reply"]
_MODULES = {
    "FedRebasin": "strategies.fed_rebasin",
    "Recalibration": "strategies.recalibration",
    "recalibration_reply": "strategies.recalibration",
}


def __getattr__(name: str) -> object:
    """The strategy and its parts, imported when first asked for: what needs the settings alone need not hold torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

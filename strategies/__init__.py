"""Align, then average: the Flower strategy and its parts."""

from strategies.fed_rebasin import FedRebasin, Sampling

__all__ = ["FedRebasin", "Sampling"]

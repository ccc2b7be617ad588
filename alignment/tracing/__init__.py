"""Derives the permutation spec of a network from one run of it; docs/decisions/0001 says why this way."""

from alignment.tracing.derive import derive_spec

__all__ = ["derive_spec"]

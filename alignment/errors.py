"""What alignment refuses, and why.

AlignmentError
├── SpecError    the permutation spec does not fit, or does not preserve, the network
└── StateError   a state dict has a missing, unknown, misshapen or non-finite tensor
"""


class AlignmentError(ValueError):
    """The root of every error that `alignment` raises on bad input."""


class SpecError(AlignmentError):
    """A permutation spec contradicts itself, or changes what the network computes."""


class StateError(AlignmentError):
    """A state dict does not fit the spec, or another state dict. Names the first tensor at fault."""

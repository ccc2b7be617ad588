"""What alignment refuses, and why.

AlignmentError
├── BatchError   a batch holds a value that is not finite
├── SpecError    the permutation spec does not fit, or does not preserve, the network
└── StateError   a state dict has a missing, unknown, misshapen or non-finite tensor
"""


class AlignmentError(ValueError):
    """The root of every error that `alignment` raises on bad input."""


class BatchError(AlignmentError):
    """A batch of data holds a value that is not finite, or not the tensors wanted. Says which batch, counted from 0."""


class SpecError(AlignmentError):
    """A permutation spec contradicts itself, or changes what the network computes."""


class StateError(AlignmentError):
    """A state dict does not fit the spec, or another state dict. Names the first tensor at fault."""

"""What tells two architectures apart."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the name, dtype and shape of every tensor, in order; two networks that can be averaged have one."""
    lines = (f"{name} {tensor.dtype} {'x'.join(map(str, tensor.shape))}\n" for name, tensor in state.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()

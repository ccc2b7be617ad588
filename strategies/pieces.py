"""Large tensors some numbers at a time, so that what is computed on the way stays in the processor's cache."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

PIECE = 1 << 16


def pieces(tensor: Tensor) -> Sequence[Tensor]:
    """All numbers of ``tensor`` in their order, in pieces; views of it where it is contiguous."""
    return cast(Sequence[Tensor], tensor.reshape(-1).split(PIECE))  # pyright: ignore[reportUnknownMemberType]

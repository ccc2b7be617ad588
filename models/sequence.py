"""How images enter the networks that read sequences."""

from jaxtyping import Float
from torch import Tensor

from models.errors import ModelError


def sequence_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(time, features) of a sample of ``shape``; an image is read row by row."""
    match shape:
        case (time, features):
            return time, features
        case (channels, height, width):
            return height, channels * width
        case _:
            raise ModelError(f"shape {shape}: expected (time, features) or (channels, height, width)")


def as_sequence(x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch time features"]:
    """``x`` itself, or the rows of its images."""
    return x if x.ndim == 3 else x.transpose(1, 2).flatten(2)

"""Arrays from a site, judged by what they claim before memory is taken for them.

NumPy's own reader believes the header: one that claims 2³³ values over no bytes makes it ask for 32 GiB.
"""

import math
import warnings
from functools import lru_cache
from io import BytesIO
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from strategies.errors import Reason, RefusedReply

NUMPY = "numpy.ndarray"
# Little-endian, as every machine of today writes them.
TORCH = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
# Along one axis; no network has so many.
LARGEST = 2**40
# What NumPy's header reader raises at bytes that are no header.
HEADER_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
)


def read_state(site: str, record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of ``record``, in its order. Raises `RefusedReply` and nothing else."""
    return {name: decode(site, name, array) for name, array in record.items()}


def decode(site: str, name: str, array: Array) -> Tensor:
    """The tensor in ``array``, to be read only: its memory is that of the bytes that came.

    Raises `RefusedReply` for a dtype that no network has, and where `layout_of` does.
    """
    if array.dtype not in TORCH:
        raise RefusedReply(Reason.DTYPE, site, f"{array.dtype!r:.40} is no dtype of a network", name)
    shape, by_column, start = layout_of(site, name, array)
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=TORCH[array.dtype])
    with warnings.catch_warnings():
        # Nobody writes into a reply: its bytes are used where they lie.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        flat = torch.frombuffer(array.data, dtype=TORCH[array.dtype], offset=start)
    # NumPy calls a single number both: by row and by column.
    return flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if by_column and shape else flat.reshape(shape)


class Layout(NamedTuple):
    """How the numbers of an array lie in its bytes: from byte ``start`` on, row by row or column by column."""

    shape: tuple[int, ...]
    by_column: bool
    start: int


def layout_of(site: str, name: str, array: Array) -> Layout:
    """The layout that NumPy's header tells, once it is known to be true.

    Raises `RefusedReply` for an encoding that the protocol does not know, for a header that is none or disagrees with
    what the array says of itself, and for more or fewer bytes than it claims.
    """
    if array.stype != NUMPY:
        raise RefusedReply(Reason.ENCODING, site, f"expected {NUMPY}, got {array.stype!r:.40}", name)
    shape, by_column, dtype, start = _header(site, name, array)
    if (str(dtype), shape) != (array.dtype, tuple(array.shape)):
        claims = f"header says {dtype} {shape}, array says {array.dtype} {tuple(array.shape)}"
        raise RefusedReply(Reason.ENCODING, site, claims, name)
    expected, got = math.prod(shape) * dtype.itemsize, len(array.data) - start
    if expected != got:
        raise RefusedReply(Reason.ENCODING, site, f"expected {expected} bytes, got {got}", name)
    return Layout(shape, by_column, start)


def _header(site: str, name: str, array: Array) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, order, dtype and length of NumPy's header."""
    # Six bytes of magic, two of the version, two of the length of what follows.
    length = 10 + int.from_bytes(array.data[8:10], "little")
    try:
        shape, by_column, dtype = _parsed(array.data[:length])
    except HEADER_ERRORS as error:
        raise RefusedReply(Reason.ENCODING, site, f"no header of NumPy's: {type(error).__name__}", name) from None
    # Neither is a bool a size, nor what PyTorch has no number for.
    if any(type(size) is not int or not 0 <= size <= LARGEST for size in shape):
        raise RefusedReply(Reason.ENCODING, site, f"expected sizes from 0 to {LARGEST:,}, got {shape!s:.80}", name)
    return shape, by_column, dtype, length


@lru_cache(maxsize=4096)
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """What NumPy reads in a header; the same one comes with every reply."""
    file = BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected version 1.0")
    return np.lib.format.read_array_header_1_0(file)

"""Arrays from a site, judged by what they claim before memory is taken for them.

NumPy's own reader believes the header: one that claims 2³³ values over no bytes makes it ask for 32 GiB.
"""

import math
from io import BytesIO
from tokenize import TokenError

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from strategies.errors import Reason, RefusedReply

NUMPY = "numpy.ndarray"
DTYPES = frozenset(["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"])
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
    """The tensor in ``array``; takes as much memory as came in bytes.

    Raises `RefusedReply` for an encoding or dtype that the protocol does not know, for a header that is none or
    disagrees with what the array says of itself, and for more or fewer bytes than it claims.
    """
    if array.stype != NUMPY:
        raise RefusedReply(Reason.ENCODING, site, f"expected {NUMPY}, got {array.stype!r:.40}", name)
    if array.dtype not in DTYPES:
        raise RefusedReply(Reason.DTYPE, site, f"{array.dtype!r:.40} is no dtype of a network", name)
    shape, by_column, dtype, start = _header(site, name, array)
    if (str(dtype), shape) != (array.dtype, tuple(array.shape)):
        claims = f"header says {dtype} {shape}, array says {array.dtype} {tuple(array.shape)}"
        raise RefusedReply(Reason.ENCODING, site, claims, name)
    expected, got = math.prod(shape) * dtype.itemsize, len(array.data) - start
    if expected != got:
        raise RefusedReply(Reason.ENCODING, site, f"expected {expected} bytes, got {got}", name)
    flat = np.frombuffer(array.data, dtype, offset=start)
    return torch.from_numpy(flat.reshape(shape, order="F" if by_column else "C").copy(order="C"))


def _header(site: str, name: str, array: Array) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, order, dtype and length of NumPy's header."""
    # A header of version 1 is at most 64 KiB; only so much is looked at.
    file = BytesIO(array.data[: 1 << 17])
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("expected version 1.0")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    except HEADER_ERRORS as error:
        raise RefusedReply(Reason.ENCODING, site, f"no header of NumPy's: {type(error).__name__}", name) from None
    if min(shape, default=0) < 0:
        raise RefusedReply(Reason.ENCODING, site, f"a size below zero: {shape}", name)
    return shape, by_column, dtype, file.tell()

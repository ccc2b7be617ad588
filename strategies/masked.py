"""Masked networks as they cross the wire.

Flower's SecAgg+ has a masked vector as a list of bytes, 64 bits a number, in one record that is sent in one piece. Its
numbers are below 2³², and arrays are sent in pieces: so they travel as arrays of 32 bits.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

from strategies.decoding import layout_of
from strategies.errors import Reason, RefusedReply

MASKED = "masked"
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
Shapes = Sequence[tuple[int, ...]]


def pack_masked(reply: Message) -> Message:
    """The reply, with its masked vector, where it brings one, as arrays of 32 bits."""
    config = reply.content.config_records[RECORD_KEY_CONFIGS]
    vectors = cast(list[bytes], config.pop(Key.MASKED_PARAMETERS, []))
    if vectors:
        arrays = {str(number): Array(bytes_to_ndarray(each).astype(np.uint32)) for number, each in enumerate(vectors)}
        reply.content[MASKED] = ArrayRecord(arrays)
    return reply


def masked_vector(site: str, reply: Message, shapes: Shapes) -> list[Numbers]:
    """The masked vector that a reply brings; raises `RefusedReply` unless its arrays have these shapes.

    Its numbers are to be read only: they lie in the bytes that came.
    """
    arrays = reply.content.array_records.get(MASKED, ArrayRecord())
    expected = {str(number): ("uint32", shape) for number, shape in enumerate(shapes)}
    if {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()} != expected:
        raise RefusedReply(Reason.MALFORMED, site, "masked arrays of other names, dtypes or shapes than the network's")
    return [_numbers(site, name, arrays[name]) for name in expected]


def _numbers(site: str, name: str, array: Array) -> Numbers:
    """The numbers of one array; raises `RefusedReply` where its bytes are not what they claim to be."""
    shape, by_column, start = layout_of(site, name, array)
    flat = np.frombuffer(array.data, np.uint32, math.prod(shape), start)
    return flat.reshape(shape, order="F" if by_column else "C")


def with_vector(reply: Message, vector: Sequence[Numbers]) -> Message:
    """The reply as Flower reads it, with ``vector`` for its masked one."""
    content = reply.content
    config = ConfigRecord({**content.config_records[RECORD_KEY_CONFIGS]})
    config[Key.MASKED_PARAMETERS] = [ndarray_to_bytes(each.astype(np.int64)) for each in vector]
    rest = {name: record for name, record in content.items() if name not in (MASKED, RECORD_KEY_CONFIGS)}
    reply.content = RecordDict({**rest, RECORD_KEY_CONFIGS: config})
    return reply

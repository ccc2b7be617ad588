"""Masked networks as they cross the wire.

Flower's SecAgg+ has a masked vector as a list of bytes, 64 bits a number, in one record that is sent in one piece. Its
numbers are below 2³², and arrays are sent in pieces: so they travel as arrays of 32 bits.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

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
    """The masked vector that a reply brings; raises `RefusedReply` unless its arrays have these shapes."""
    arrays = reply.content.array_records.get(MASKED, ArrayRecord())
    expected = {str(number): ("uint32", shape) for number, shape in enumerate(shapes)}
    if {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()} != expected:
        raise RefusedReply(Reason.MALFORMED, site, "masked arrays of other names, dtypes or shapes than the network's")
    try:
        # Not by Flower's own `numpy`, which takes whatever file `np.load` reads.
        vectors = [
            np.lib.format.read_array(BytesIO(arrays[str(number)].data), allow_pickle=False)
            for number in range(len(shapes))
        ]
    # Whatever NumPy raises at bytes from elsewhere, it is the site's fault.
    except Exception as error:
        raise RefusedReply(Reason.MALFORMED, site, f"masked arrays: {type(error).__name__}") from error
    if any(vector.shape != shape or vector.dtype != np.uint32 for vector, shape in zip(vectors, shapes, strict=True)):
        raise RefusedReply(Reason.MALFORMED, site, "masked arrays that are not what their headers say")
    return vectors


def with_vector(reply: Message, vector: Sequence[Numbers]) -> Message:
    """The reply as Flower reads it, with ``vector`` for its masked one."""
    content = reply.content
    config = ConfigRecord({**content.config_records[RECORD_KEY_CONFIGS]})
    config[Key.MASKED_PARAMETERS] = [ndarray_to_bytes(each.astype(np.int64)) for each in vector]
    rest = {name: record for name, record in content.items() if name not in (MASKED, RECORD_KEY_CONFIGS)}
    reply.content = RecordDict({**rest, RECORD_KEY_CONFIGS: config})
    return reply

"""Bytes that are not what they claim to be."""

import pickle
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from strategies.decoding import decode
from strategies.errors import Reason, RefusedReply
from strategies.masked import MASKED, masked_vector
from strategies.protocol import ARRAYS, TRAIN
from tests.attacks.federation import Values, assert_costs_one_turn, attacked, first_array, networks, with_array


def header(shape: tuple[int, ...], descr: str = "<f4", by_column: bool = False) -> bytes:
    """NumPy's header, alone."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": by_column, "shape": shape})
    return file.getvalue()


def saved(array: Values, allow_pickle: bool = False) -> bytes:
    """What NumPy writes."""
    file = BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="no bytes"),
        pytest.param(b"\x93NUMPY", id="the beginning of a header"),
        pytest.param(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, id="deep brackets"),
        pytest.param(pickle.dumps([1, 2, 3]), id="a pickle"),
        pytest.param(saved(np.array([{"a": 1}], dtype=object), allow_pickle=True), id="an array of objects"),
        pytest.param(header((16, 64)), id="a header over no bytes"),
        pytest.param(header((2**33,)), id="a header of 32 GiB over no bytes"),
        pytest.param(header((16, 64), "|O"), id="a header of objects"),
        pytest.param(saved(np.zeros((16, 64), "<f8")), id="another dtype than claimed"),
        pytest.param(saved(np.zeros((1024,), "<f4")), id="another shape than claimed"),
        pytest.param(saved(np.zeros((16, 64), "<f4")) + b"\x00", id="a byte too many"),
        pytest.param(saved(np.zeros((16, 64), "<f4"))[:-1], id="a byte too few"),
    ],
)
def test_bytes_that_are_no_array_of_the_claimed_kind(data: bytes) -> None:
    assert_costs_one_turn(with_array(data=data), "ENCODING")


def test_another_encoding() -> None:
    assert_costs_one_turn(with_array(stype="pickle"), "ENCODING")


def test_a_claim_of_32_gib_takes_no_memory() -> None:
    array = Array("float32", (2**33,), "numpy.ndarray", header((2**33,)))
    tracemalloc.start()
    with pytest.raises(RefusedReply) as caught:
        decode("site-eu", "conv1.weight", array)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert (caught.value.reason, caught.value.tensor) == (Reason.ENCODING, "conv1.weight")


def test_a_masked_array_that_claims_32_gib_takes_no_memory() -> None:
    array = Array("uint32", (64,), "numpy.ndarray", header((2**33,), "<u4"))
    reply = Message(RecordDict({MASKED: ArrayRecord({"0": array})}), 1, TRAIN)
    tracemalloc.start()
    with pytest.raises(RefusedReply) as caught:
        masked_vector("site-eu", reply, [(64,)])
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert caught.value.reason is Reason.ENCODING


def test_the_order_of_a_fortran_array_is_heard() -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(decode("a", "w", Array(value)).numpy(), value)
    masked = value.astype(np.uint32, order="F")
    reply = Message(RecordDict({MASKED: ArrayRecord({"0": Array(masked)})}), 1, TRAIN)
    assert np.array_equal(masked_vector("a", reply, [(2, 3)])[0], masked)


def test_what_an_honest_site_sends_is_read_as_it_is() -> None:
    sent: list[str] = []

    def by_columns(reply: Message) -> None:
        name, value = first_array(reply)
        sent.append(name)
        reply.content.array_records[ARRAYS][name] = Array(np.asfortranarray(value))

    assert networks(attacked(by_columns)) == networks(attacked(lambda reply: None))
    assert sent

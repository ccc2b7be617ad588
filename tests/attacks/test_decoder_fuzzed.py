"""The decoder raises nothing but `RefusedReply`, whatever bytes come."""

import math
from io import BytesIO

import numpy as np
import torch
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from strategies.decoding import TORCH, decode
from strategies.errors import RefusedReply

shapes = st.lists(st.integers(-2, 2**33), max_size=4).map(tuple)
names = st.one_of(st.sampled_from(sorted(TORCH)), st.text(max_size=8))


def is_read_or_refused(array: Array) -> None:
    try:
        tensor = decode("site", "weight", array)
    except RefusedReply:
        return
    assert tuple(tensor.shape) == tuple(array.shape)
    assert str(tensor.dtype) == f"torch.{array.dtype}"


@given(names, shapes, st.sampled_from(["numpy.ndarray", "", "torch"]), st.binary(max_size=400))
def test_any_bytes(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> None:
    is_read_or_refused(Array(dtype, shape, stype, data))


@given(names, shapes, st.text(max_size=200), st.binary(max_size=64))
def test_a_header_of_any_text(dtype: str, shape: tuple[int, ...], text: str, rest: bytes) -> None:
    said = text.encode("utf-8", "surrogatepass")
    data = b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said + rest
    is_read_or_refused(Array(dtype, shape, "numpy.ndarray", data))


@settings(max_examples=200)
@given(st.data())
def test_a_good_array_with_bytes_changed(data: st.DataObject) -> None:
    value = data.draw(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=4)))
    file = BytesIO()
    np.save(file, value)
    changed = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    is_read_or_refused(Array("float32", value.shape, "numpy.ndarray", bytes(changed)))


@given(st.sampled_from(sorted(TORCH)), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4))
def test_a_good_array_is_read(dtype: str, shape: tuple[int, ...]) -> None:
    value = torch.arange(math.prod(shape)).reshape(shape).to(getattr(torch, dtype))
    assert torch.equal(decode("site", "weight", Array(value.numpy())), value)

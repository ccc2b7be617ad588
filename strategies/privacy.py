"""What privacy covers of a network, which both sides must agree on: its parameters, and no buffer."""

from collections.abc import Collection, Mapping, Sequence

from flwr.app import Array, ArrayRecord

from alignment.spec import PermutationSpec


def learned(spec: PermutationSpec, arrays: ArrayRecord) -> list[str]:
    """The names of the parameters, in the order of ``arrays``: of all floating tensors, those that are no buffers.

    Counters of batches are no part of an update, and would be nearly all of its norm. Running statistics are statistics
    of the site's data: noise that hides them makes variances negative, and every merge recomputes them anyway.
    """
    return [name for name, array in arrays.items() if array.dtype.startswith("float") and name not in spec.buffers]


def part(arrays: ArrayRecord, names: Collection[str]) -> ArrayRecord:
    """The arrays of these names, in their order, each in its `covered_shape`."""
    return ArrayRecord({name: _shaped(arrays[name], covered_shape(arrays[name].shape)) for name in names})


def put_back(arrays: ArrayRecord, sent: Mapping[str, Array]) -> ArrayRecord:
    """``arrays``, and of ``sent`` what they lack, in the order and the shapes of ``sent``."""
    return ArrayRecord({name: _shaped(arrays.get(name, old), tuple(old.shape)) for name, old in sent.items()})


def covered_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape``, with an axis of one where there is none.

    Flower clips, noises and scales in place, and what NumPy reckons from an array without an axis is a scalar, of which
    ``+=`` makes another: the array itself would leave as it was.
    """
    return tuple(shape) or (1,)


def _shaped(array: Array, shape: tuple[int, ...]) -> Array:
    return array if tuple(array.shape) == shape else Array(array.numpy().reshape(shape))

"""What privacy covers of a network, which both sides must agree on: its parameters, and no buffer."""

from collections.abc import Collection, Mapping

from flwr.app import Array, ArrayRecord

from alignment.spec import PermutationSpec


def learned(spec: PermutationSpec, arrays: ArrayRecord) -> list[str]:
    """The names of the parameters, in the order of ``arrays``: of all floating tensors, those that are no buffers.

    Counters of batches are no part of an update, and would be nearly all of its norm. Running statistics are statistics
    of the site's data: noise that hides them makes variances negative, and every merge recomputes them anyway.
    """
    return [name for name, array in arrays.items() if array.dtype.startswith("float") and name not in spec.buffers]


def part(arrays: ArrayRecord, names: Collection[str]) -> ArrayRecord:
    """The arrays of these names, in their order."""
    return ArrayRecord({name: arrays[name] for name in names})


def put_back(arrays: ArrayRecord, sent: Mapping[str, Array]) -> ArrayRecord:
    """``arrays``, and of ``sent`` what they lack, in the order of ``sent``."""
    return ArrayRecord({name: arrays.get(name, array) for name, array in sent.items()})

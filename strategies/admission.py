"""Whether a training reply may enter the merge. Each is judged alone; a bad one costs its site the turn only."""

import math
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from alignment.permutation import Permutation
from alignment.spec import PermutationSpec, State
from strategies.alignments import Reported, unpack_matching, unpack_permutation
from strategies.errors import Reason, RefusedReply
from strategies.protocol import MATCHING, PERMUTATION, to_state


@dataclass(frozen=True)
class Admitted:
    """One site's network, what it weighs, and what the site says of its alignment."""

    site: str
    state: State
    weight: float
    metrics: MetricRecord
    permutation: Permutation | None = None
    reported: Reported | None = None


def admit(site: str, reply: Message | None, reference: State, spec: PermutationSpec, weighted_by: str) -> Admitted:
    """The reply, judged against the reference: records, keys, dtypes, shapes, finite values, weight, permutation.

    Raises `RefusedReply` with the first reason found.
    """
    content = sound(site, reply).content
    arrays, metrics = _records(site, content)
    weight = weight_of(site, metrics, weighted_by)
    _check_headers(site, arrays, reference)
    state = to_state(arrays)
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise RefusedReply(Reason.NOT_FINITE, site, f"tensor {name!r}")
    proposed, said = content.array_records.get(PERMUTATION), content.config_records.get(MATCHING)
    permutation = None if proposed is None else unpack_permutation(site, proposed, spec)
    return Admitted(site, state, weight, metrics, permutation, None if said is None else unpack_matching(site, said))


def sound(site: str, reply: Message | None) -> Message:
    """The reply, unless the site stayed silent or answered with an error: then `RefusedReply`."""
    if reply is None:
        raise RefusedReply(Reason.LATE, site, "silent")
    if reply.has_error():
        raise RefusedReply(Reason.CLIENT_ERROR, site, f"code {reply.error.code}: {reply.error.reason}")
    return reply


def _records(site: str, content: RecordDict) -> tuple[ArrayRecord, MetricRecord]:
    arrays = [record for name, record in content.array_records.items() if name != PERMUTATION]
    metrics = list(content.metric_records.values())
    if len(arrays) != 1 or len(metrics) != 1:
        detail = f"expected one ArrayRecord and one MetricRecord, got {len(arrays)} and {len(metrics)}"
        raise RefusedReply(Reason.MALFORMED, site, detail)
    return arrays[0], metrics[0]


def weight_of(site: str, metrics: MetricRecord, weighted_by: str) -> float:
    """What the site weighs; raises `RefusedReply` unless it is a positive finite number."""
    weight = metrics.get(weighted_by)
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
        raise RefusedReply(Reason.WEIGHT, site, f"{weighted_by!r} is {weight!r}")
    return float(weight)


def _check_headers(site: str, arrays: ArrayRecord, reference: State) -> None:
    if unknown := sorted(set(arrays) ^ set(reference)):
        raise RefusedReply(Reason.KEYS, site, f"tensor {unknown[0]!r} is missing or unknown")
    for name, tensor in reference.items():
        expected = str(tensor.dtype).removeprefix("torch.")
        if arrays[name].dtype != expected:
            raise RefusedReply(Reason.DTYPE, site, f"tensor {name!r}: expected {expected}, got {arrays[name].dtype}")
        if tuple(arrays[name].shape) != tuple(tensor.shape):
            shapes = f"expected {tuple(tensor.shape)}, got {tuple(arrays[name].shape)}"
            raise RefusedReply(Reason.SHAPE, site, f"tensor {name!r}: {shapes}")

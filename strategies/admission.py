"""Whether a training reply may enter the merge. Each is judged alone; a bad one costs its site the turn only."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from alignment.permutation import Permutation
from alignment.spec import PermutationSpec, State
from alignment.validate import not_finite
from strategies.alignments import Reported, unpack_matching, unpack_permutation
from strategies.bounds import MOST_EXAMPLES, MOST_NORM, update_norm
from strategies.decoding import read_state
from strategies.errors import Reason, RefusedReply
from strategies.exchange import UNREADABLE
from strategies.protocol import MATCHING, PERMUTATION

# What BatchNorm and InstanceNorm call the buffer that they divide by the root of.
VARIANCE = "running_var"
# What Flower answers in a node's stead.
EXPIRED, NO_NODE, CRASHED = (3, 4), 5, 8
# What NumPy calls the dtypes of counters, tables and masks.
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
# The text is the site's.
LONGEST_REASON = 200
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Admitted:
    """One site's network, what it weighs, the norm of its update, and what the site says of its alignment.

    ``told`` is all that came beside arrays, by the names that the site gave it: one record of metrics, and more.
    """

    site: str
    state: State
    weight: float
    told: RecordDict
    norm: float = 0.0
    permutation: Permutation | None = None
    reported: Reported | None = None

    @property
    def metrics(self) -> MetricRecord:
        """What the site measured."""
        return next(iter(self.told.metric_records.values()))


def admit(site: str, reply: Message | None, reference: State, spec: PermutationSpec, weighted_by: str) -> Admitted:
    """The reply, judged against the reference: records, weight, keys, dtypes, shapes, bytes, values, variances,
    permutation.

    Nothing is allocated for an array before its header was held against the reference's. Raises `RefusedReply` with
    the first reason found.
    """
    content = sound(site, reply).content
    arrays, metrics = _records(site, content)
    weight = weight_of(site, metrics, weighted_by)
    counters = _check_headers(site, arrays, reference, spec.buffers)
    read = read_state(site, arrays)
    state = {**read, **{name: read[name].to(reference[name].dtype) for name in counters}}
    norm = update_norm(state, reference, spec.buffers)
    if not math.isfinite(norm):
        worst = not_finite(state)
        raise RefusedReply(Reason.NOT_FINITE if worst else Reason.NORM, site, "expected finite values", worst)
    if norm > MOST_NORM:
        raise RefusedReply(Reason.NORM, site, f"norm {norm:.4g}, no network's is above {MOST_NORM:g}")
    if negative := _negative_variance(state, spec.buffers):
        raise RefusedReply(Reason.MOMENTS, site, "a running variance is below 0", negative)
    proposed, said = content.array_records.get(PERMUTATION), content.config_records.get(MATCHING)
    permutation = None if proposed is None else unpack_permutation(site, proposed, spec)
    reported = None if said is None else unpack_matching(site, said, spec)
    told = RecordDict({name: record for name, record in content.items() if name not in content.array_records})
    return Admitted(site, state, weight, told, norm, permutation, reported)


def sound(site: str, reply: Message | None) -> Message:
    """The reply, unless the site stayed silent or answered with an error: then `RefusedReply`."""
    if reply is None:
        raise RefusedReply(Reason.LATE, site, "silent")
    if reply.has_error():
        ended = {NO_NODE: Reason.GONE, CRASHED: Reason.GONE, UNREADABLE: Reason.MALFORMED}
        known = {**ended, **dict.fromkeys(EXPIRED, Reason.LATE)}
        reason = known.get(reply.error.code, Reason.CLIENT_ERROR)
        raise RefusedReply(reason, site, f"code {reply.error.code}: {_last_line(reply.error.reason or '')}")
    return reply


def _last_line(reason: str) -> str:
    """What is worth a line of a log: of a traceback, which Flower's simulation makes the reason, the exception."""
    lines = [line.strip() for line in COLOURS.sub("", reason).splitlines() if line.strip()]
    return lines[-1][:LONGEST_REASON] if lines else "no reason given"


def _records(site: str, content: RecordDict) -> tuple[ArrayRecord, MetricRecord]:
    arrays = [record for name, record in content.array_records.items() if name != PERMUTATION]
    metrics = list(content.metric_records.values())
    if len(arrays) != 1 or len(metrics) != 1:
        detail = f"expected one ArrayRecord and one MetricRecord, got {len(arrays)} and {len(metrics)}"
        raise RefusedReply(Reason.MALFORMED, site, detail)
    return arrays[0], metrics[0]


def weight_of(site: str, metrics: MetricRecord, weighted_by: str) -> float:
    """What the site weighs; raises `RefusedReply` unless it is a number of samples that a site can have."""
    weight = metrics.get(weighted_by)
    if not isinstance(weight, int | float) or not 0 < weight <= MOST_EXAMPLES:
        expected = f"a number above 0 and at most {MOST_EXAMPLES:,}"
        raise RefusedReply(Reason.WEIGHT, site, f"{weighted_by!r}: expected {expected}, got {weight!r:.40}")
    return float(weight)


def _negative_variance(state: State, buffers: Collection[str]) -> str:
    """The name of a running variance below 0, behind which nothing is a number; empty where there is none."""
    return next((name for name in variances(buffers) if name in state and bool((state[name] < 0).any())), "")


def variances(buffers: Collection[str]) -> list[str]:
    """The running variances among ``buffers``, as BatchNorm and InstanceNorm name them."""
    return [name for name in sorted(buffers) if name.rpartition(".")[2] == VARIANCE]


def _check_headers(site: str, arrays: ArrayRecord, reference: State, buffers: Collection[str]) -> list[str]:
    """The integers that came for buffers that went out as floats: what FedAvg merged has its counters so."""
    counters: list[str] = []
    if missing := sorted(set(reference) - set(arrays)):
        unknown = sorted(set(arrays) - set(reference))
        instead = f"; {unknown[0]!r:.80} is unknown" if unknown else ""
        raise RefusedReply(Reason.KEYS, site, f"missing{instead}", missing[0][:80])
    if unknown := sorted(set(arrays) - set(reference)):
        raise RefusedReply(Reason.KEYS, site, "unknown", unknown[0][:80])
    for name, tensor in reference.items():
        expected = str(tensor.dtype).removeprefix("torch.")
        if name in buffers and tensor.is_floating_point() and arrays[name].dtype in INTEGERS:
            counters.append(name)
        elif arrays[name].dtype != expected:
            raise RefusedReply(Reason.DTYPE, site, f"expected {expected}, got {arrays[name].dtype!r:.40}", name)
        if tuple(arrays[name].shape) != tuple(tensor.shape):
            shapes = f"expected {tuple(tensor.shape)}, got {tuple(arrays[name].shape)!s:.80}"
            raise RefusedReply(Reason.SHAPE, site, shapes, name)
    return counters

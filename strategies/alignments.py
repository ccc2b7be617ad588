"""What a site says of an alignment that it made itself: numbers for the run store, and the permutation if asked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from alignment.errors import SpecError
from alignment.matching import Matching
from alignment.permutation import Permutation, check_permutation
from alignment.spec import PermutationSpec
from strategies.decoding import read_state
from strategies.errors import Reason, RefusedReply
from strategies.protocol import to_arrays

MOVED = "moved."


@dataclass(frozen=True)
class Reported:
    """A matching as a site tells of it: the numbers of `alignment.Matching`, which nobody else can check."""

    objective: float
    gain: float
    sweeps: int
    converged: bool
    moved: Mapping[str, float]
    seconds: float = 0.0


def pack_matching(matching: Matching, seconds: float = 0.0) -> ConfigRecord:
    """The numbers of a matching, and what it took, as they cross the wire."""
    numbers = {
        "objective": matching.objective,
        "gain": matching.gain,
        "sweeps": matching.sweeps,
        "converged": matching.converged,
        "seconds": seconds,
    }
    return ConfigRecord({**numbers, **{MOVED + group: share for group, share in matching.moved.items()}})


def unpack_matching(site: str, record: ConfigRecord, spec: PermutationSpec) -> Reported:
    """The inverse of `pack_matching`; raises `RefusedReply` where a number is missing or none, or a group unknown."""
    try:
        numbers = {key: float(str(record[key])) for key in ("objective", "gain", "sweeps")}
        moved = {key.removeprefix(MOVED): float(str(record[key])) for key in record if key.startswith(MOVED)}
        converged = bool(record["converged"])
        numbers["seconds"] = float(str(record.get("seconds", 0.0)))
    except (KeyError, ValueError) as error:
        raise RefusedReply(Reason.MALFORMED, site, f"matching: {error!s:.80}") from None
    if unknown := sorted(moved.keys() - spec.groups.keys()):
        raise RefusedReply(Reason.MALFORMED, site, f"matching: the network has no group {unknown[0]!r:.80}")
    finite = all(map(math.isfinite, numbers.values()))
    if not finite or numbers["seconds"] < 0 or not all(0 <= share <= 1 for share in moved.values()):
        raise RefusedReply(Reason.MALFORMED, site, "matching: a number is out of range")
    whole = int(numbers["sweeps"])
    return Reported(numbers["objective"], numbers["gain"], whole, converged, moved, numbers["seconds"])


def pack_permutation(permutation: Permutation) -> ArrayRecord:
    """A permutation as it crosses the wire."""
    return to_arrays(permutation)


def unpack_permutation(site: str, record: ArrayRecord, spec: PermutationSpec) -> dict[str, Tensor]:
    """The inverse of `pack_permutation`; raises `RefusedReply` unless it is one of this network."""
    # Judged by its header before anything is allocated.
    for group in sorted(set(record) ^ set(spec.groups)):
        raise RefusedReply(Reason.PERMUTATION, site, f"group {group!r:.80} is missing or unknown")
    for group, array in record.items():
        units = spec.groups[group]
        if array.dtype != "int64" or math.prod(array.shape) > units * _rows(spec, group):
            raise RefusedReply(Reason.PERMUTATION, site, f"group {group!r}: {array.dtype} {tuple(array.shape)}")
    permutation = read_state(site, record)
    try:
        check_permutation(spec, permutation)
    except SpecError as error:
        raise RefusedReply(Reason.PERMUTATION, site, str(error)) from None
    return permutation


def _rows(spec: PermutationSpec, group: str) -> int:
    return spec.groups[spec.parents[group]] if group in spec.parents else 1

"""Three sites, of which one is hostile: what a run makes of it, and what the honest sites alone would give."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, cast

import numpy as np
from flwr.app import Array, Error, Message

from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.protocol import ARRAYS, METRICS, TRAIN
from tests.inprocess import play_in_process, quick_settings

N_SITES = 3
HOSTILE, HOSTILE_NAME = 1, "site-eu"
Values = np.ndarray[Any, np.dtype[Any]]
Change = Callable[[Values], Values]
Spoil = Callable[[Message], None]
# Of all attacks, many of which are looked at again by other tests; removed with the process.
SCRATCH = TemporaryDirectory(prefix="attacks-")
SETTINGS: dict[str, object] = {
    "rounds": 2,
    "epochs": 1,
    "later_epochs": 1,
    "width": 16,
    "probe_points": 0,
}
# With BatchNorm, so that moments are asked for.
RESNET: dict[str, object] = {"model": "resnet20", "depth": 8, "width": 4, "statistics_samples": 64}


def attacked(spoil: Spoil, kind: str = TRAIN, **changes: object) -> RunStore:
    """A run in which the hostile site's replies of ``kind`` go through ``spoil`` in the first round."""
    turns = 0

    def tamper(partition: int, reply: Message) -> Message:
        nonlocal turns
        if partition == HOSTILE and reply.metadata.message_type == kind and not reply.has_error():
            turns += 1
            if turns == 1:
                spoil(reply)
        return reply

    return play_in_process(_settings(changes), N_SITES, tamper)


def refused(store: RunStore) -> tuple[str, str]:
    """Site and reason of the only refusal in a run of which every round merged."""
    rounds = read_rounds(store)
    assert [record.outcome for record in rounds] == ["merged"] * len(rounds)
    (verdict,) = [verdict for record in rounds for verdict in record.refused]
    return verdict.site, verdict.reason


def assert_costs_one_turn(spoil: Spoil, reason: str, kind: str = TRAIN, **changes: object) -> RoundRecord:
    """``spoil`` is refused for ``reason``, and both rounds give what they would had the site answered with an error."""
    store = attacked(spoil, kind, **changes)
    assert refused(store) == (HOSTILE_NAME, reason)
    assert networks(store) == honest_alone(kind, tuple(sorted(changes.items())))
    return read_rounds(store)[0]


@cache
def honest_alone(kind: str, changes: tuple[tuple[str, object], ...]) -> tuple[bytes, ...]:
    """The networks of the same rounds when the hostile site fails in its turn and says so."""
    return networks(attacked(fail, kind, **dict(changes)))


def fail(reply: Message) -> None:
    """An error in place of the content."""
    fail_with(reply, Error(2, "as if it had failed"))


def fail_with(reply: Message, error: Error) -> None:
    """That error in place of the content."""
    reply.__dict__["_content"], reply.__dict__["_error"] = None, error


def networks(store: RunStore) -> tuple[bytes, ...]:
    """The files with the merged networks."""
    return tuple(store.checkpoint_path(record.round).read_bytes() for record in read_rounds(store))


def first_array(reply: Message) -> tuple[str, Values]:
    """Name and value of the first tensor of the network."""
    name, array = next(iter(reply.content.array_records[ARRAYS].items()))
    return name, array.numpy()


def with_first(change: Change) -> Spoil:
    """Changes the value of the first tensor."""

    def spoil(reply: Message) -> None:
        name, value = first_array(reply)
        reply.content.array_records[ARRAYS][name] = Array(np.asarray(change(value)))

    return spoil


def with_array(**fields: object) -> Spoil:
    """Changes fields of the first tensor as it crosses the wire."""

    def spoil(reply: Message) -> None:
        arrays = reply.content.array_records[ARRAYS]
        name, array = next(iter(arrays.items()))
        said = {field: getattr(array, field) for field in ("dtype", "shape", "stype", "data")}
        arrays[name] = Array(**cast(Any, {**said, **fields}))

    return spoil


def with_metric(key: str, value: object) -> Spoil:
    """Changes a metric; None removes it."""

    def spoil(reply: Message) -> None:
        metrics = reply.content.metric_records[METRICS]
        if value is None:
            del metrics[key]
        else:
            metrics[key] = value  # pyright: ignore[reportArgumentType]

    return spoil


def _settings(changes: Mapping[str, object]):
    return quick_settings(Path(mkdtemp(dir=SCRATCH.name)), **{**SETTINGS, **changes})

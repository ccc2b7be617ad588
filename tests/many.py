"""A federation of very many sites in one process, each of which answers at once without training anything.

Every honest site sends the network that it was sent, moved a part of the way to a target that all share, with its units
shuffled and a little noise: what a merge must make of them is known. Some crash, some lie, some are late.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from torch import Tensor

from alignment.barrier import LossSums
from models import Architecture, build
from server.app import play
from server.resume import Beginning
from server.store import RunStore
from strategies.protocol import (
    ARRAYS,
    DESCRIBE,
    DESCRIPTION,
    EVALUATE,
    METRICS,
    N_EXAMPLES,
    TRAIN,
    config_of,
    pack_sums,
    to_arrays,
    to_state,
)
from tests.inprocess import LocalGrid, outside_flower, quick_settings

CRASHING, HOSTILE, LATE = 0.05, 0.02, 0.05
PULL, NOISE = 0.5, 1e-3


def name_of(number: int) -> str:
    """site-0001 and so on: in the order of their numbers."""
    return f"site-{number:04d}"


@dataclass
class Crowd(LocalGrid):
    """``n_sites`` sites. ``expected`` counts, by reason, the refusals that what was done should give."""

    n_sites: int
    start: dict[str, Tensor]
    target: dict[str, Tensor]
    seed: int = 0
    expected: Counter[str] = field(default_factory=Counter[str])
    lying: int = 0
    _messages: dict[str, Message] = field(default_factory=dict[str, Message])

    def __post_init__(self) -> None:
        outside_flower()

    def after(self, n_rounds: int) -> dict[str, Tensor]:
        """What so many rounds merge, but for the noise."""
        return {name: torch.lerp(end, self.start[name], (1 - PULL) ** n_rounds) for name, end in self.target.items()}

    def get_node_ids(self) -> Iterable[int]:
        """One for each site."""
        return range(1, self.n_sites + 1)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Registered nodes."""
        return [NodeInfo(node_id=number, name=name_of(number)) for number in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes the messages; what is answered is made up only when it is asked for, as it would come over a wire."""
        taken: list[str] = []
        for message in messages:
            message_id = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._messages[message_id] = message
            taken.append(message_id)
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these, once; nothing from the late."""
        asked = [self._messages.pop(message_id) for message_id in message_ids if message_id in self._messages]
        return [self._answer(message) for message in asked]

    def _answer(self, message: Message) -> Message:
        number, kind = message.metadata.dst_node_id, message.metadata.message_type
        if kind == DESCRIBE:
            said = ConfigRecord({"name": "", "train-samples": 100, "held-out-samples": 10})
            return Message(RecordDict({DESCRIPTION: said}), reply_to=message)
        if kind == EVALUATE:
            sums = {name: LossSums(10, 1.0, 9.0) for name in message.content.array_records}
            return Message(RecordDict({METRICS: pack_sums(sums)}), reply_to=message)
        assert kind == TRAIN
        return self._trained(number, message)

    def _trained(self, number: int, message: Message) -> Message:
        round_number = int(str(config_of(message)["server-round"]))
        digest = hashlib.sha256(f"{self.seed}/{round_number}/{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        fate = float(torch.rand((), generator=generator))
        if fate < CRASHING:
            self.expected["GONE"] += 1
            return Message(Error(8, "client process died"), reply_to=message)
        if fate < CRASHING + LATE:
            self.expected["LATE"] += 1
            return Message(Error(3, "message expired"), reply_to=message)
        sent = to_state(message.content.array_records[ARRAYS])
        state = {name: tensor + PULL * (self.target[name] - tensor) for name, tensor in sent.items()}
        state = {n: t + NOISE * torch.randn(t.shape, generator=generator) for n, t in state.items()}
        content = RecordDict({ARRAYS: to_arrays(state), METRICS: MetricRecord({N_EXAMPLES: 100})})
        if fate < CRASHING + LATE + HOSTILE:
            self._lie(content)
        return Message(content, reply_to=message)

    def _lie(self, content: RecordDict) -> None:
        """One lie after the other, in turn."""
        arrays = content.array_records[ARRAYS]
        name = next(iter(arrays))
        value = arrays[name].numpy()
        lies: Sequence[tuple[str, Array | None]] = (
            ("NOT_FINITE", Array(np.full_like(value, np.nan))),
            ("SHAPE", Array(value[:1])),
            ("DTYPE", Array(value.astype(np.float64))),
            ("NORM", Array(value + np.float32(1e5))),
            ("ENCODING", Array("float32", value.shape, "numpy.ndarray", b"nothing")),
            ("WEIGHT", None),
        )
        reason, array = lies[self.lying % len(lies)]
        self.lying += 1
        self.expected[reason] += 1
        if array is None:
            content.metric_records[METRICS][N_EXAMPLES] = 10**12
        else:
            arrays[name] = array


def play_crowd(directory: Path, n_sites: int, n_rounds: int, seed: int = 0) -> tuple[RunStore, Crowd]:
    """A whole run of a crowd with a small MLP, aligned by the server; its store, and what was to be expected."""
    settings = quick_settings(
        directory, start="shared", width=16, depth=1, rounds=n_rounds, probe_points=0, align_at="server", seed=seed
    )
    start, target = (build(Architecture(*settings.network), number).state_dict() for number in (seed, 7))
    crowd = Crowd(n_sites, start, target, seed)
    store = RunStore(directory / settings.run)
    store.make()
    play(crowd, settings, store, Beginning())
    return store, crowd

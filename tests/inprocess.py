"""A Grid without network or processes: each message goes straight into the ClientApp."""

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from server.app import play
from server.resume import begin
from server.run import VoidError
from server.store import RunStore
from strategies.exchange import Clock
from strategies.settings import Settings, parse_settings

FIRST_NODE = 1000
Tamper = Callable[[int, Message], Message | None]


def honest(partition: int, reply: Message) -> Message:
    """No tampering."""
    return reply


class LocalGrid(Grid):
    """What every Grid without a SuperLink has in common."""

    def set_run(self, run: Run) -> None:
        """Unused here."""

    @property
    def run(self) -> Run:
        """Unused here."""
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies."""
        return self.pull_messages(self.push_messages(messages))


class Ticking:
    """A clock that each sleep moves on."""

    def __init__(self) -> None:
        self.time = 0.0

    def clock(self) -> Clock:
        """For what waits."""
        return Clock(now=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Passes the time."""
        self.time += seconds


def outside_flower() -> None:
    """Flower stamps messages with the task that makes them; outside its processes there is none."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


@dataclass
class InProcessGrid(LocalGrid):
    """``n_sites`` sites in this process. ``tamper`` sees every reply, and may change or drop it."""

    app: ClientApp
    settings: Settings
    n_sites: int
    tamper: Tamper = honest
    node_config: Mapping[str, bool | int | float | str] = field(default_factory=dict[str, bool | int | float | str])
    replies: dict[str, Message] = field(default_factory=dict[str, Message])
    states: dict[int, RecordDict] = field(default_factory=dict[int, RecordDict])

    def __post_init__(self) -> None:
        outside_flower()

    def get_node_ids(self) -> Iterable[int]:
        """One for each site."""
        return [FIRST_NODE + partition for partition in range(self.n_sites)]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nameless nodes, as in a simulation."""
        return [NodeInfo(node_id=node_id) for node_id in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs the ClientApp on each at once."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies, once; the last first, since order must not matter."""
        found = [self.replies.pop(message_id, None) for message_id in message_ids]
        return [reply for reply in reversed(found) if reply is not None]

    def _push(self, message: Message) -> str:
        message_id = str(uuid.uuid4())
        message.metadata.__dict__["_message_id"] = message_id
        partition = message.metadata.dst_node_id - FIRST_NODE
        reply = self.tamper(partition, self.app(copy.deepcopy(message), self.context(partition)))
        if reply is not None:
            self.replies[message_id] = reply
        return message_id

    def context(self, partition: int) -> Context:
        """What Flower hands to the ClientApp of a site."""
        node_config = {"partition-id": partition, "num-partitions": self.n_sites, **self.node_config}
        return Context(
            run_id=1,
            node_id=FIRST_NODE + partition,
            node_config=node_config,
            state=self.states.setdefault(partition, RecordDict()),
            run_config=self.settings.model_dump(by_alias=True),
        )


def quick_settings(directory: Path, **changes: object) -> Settings:
    """Settings of a run that takes seconds: a small MLP on the digits."""
    base: dict[str, object] = {
        "run": "test",
        "runs-dir": str(directory),
        "align-at": "server",
        "model": "mlp",
        "width": 64,
        "depth": 2,
        "epochs": 5,
        "later-epochs": 2,
        "learning-rate": 0.05,
        "rounds": 1,
        "probe-points": 3,
        "join-deadline-seconds": 1.0,
        "round-deadline-seconds": 60.0,
    }
    return parse_settings(base | {key.replace("_", "-"): value for key, value in changes.items()})


def play_in_process(settings: Settings, n_sites: int = 2, tamper: Tamper = honest) -> RunStore:
    """A whole run in this process; returns its store."""
    from client.app import app

    store = RunStore(Path(settings.runs_dir) / settings.run)
    with store.held():
        play(InProcessGrid(app, settings, n_sites, tamper), settings, store, begin(store, settings))
    return store


def play_in_vain(settings: Settings, n_sites: int = 2, tamper: Tamper = honest) -> RunStore:
    """A whole run in which no round merges, which is told; returns its store."""
    with pytest.raises(VoidError, match="rounds merged"):
        play_in_process(settings, n_sites, tamper)
    return RunStore(Path(settings.runs_dir) / settings.run)


class Played:
    """Runs in this process, each of which is played once for all tests that only look at what it left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[str, RunStore] = {}

    def __call__(self, **changes: object) -> RunStore:
        """The store of the quick run with these changes."""
        named = quick_settings(Path(), **changes).model_dump_json()
        if named not in self._stores:
            folder = self._folder / str(len(self._stores))
            self._stores[named] = play_in_process(quick_settings(folder, **changes))
        return self._stores[named]

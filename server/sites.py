"""The sites of a run: who joined, and how to ask them all one thing."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from logging import getLogger
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.live import waiting_for
from strategies.admission import sound
from strategies.errors import OperatorError, RefusedReply
from strategies.exchange import Clock, exchange
from strategies.protocol import DESCRIBE, DESCRIPTION, SITE_NAME, TRAIN_SAMPLES, request
from strategies.settings import Settings

logger = getLogger("fedrebasin")
T = TypeVar("T")


class JoinError(OperatorError):
    """Too few sites, or two of one name."""

    exit_code = 14


@dataclass
class Traffic:
    """Bytes of records that went to a site and came from it, without what carries them."""

    sent: int = 0
    received: int = 0


def size_of(content: RecordDict) -> int:
    """The bytes of all records."""
    return sum(record.count_bytes() for record in content.values())


def silent(changes: Mapping[str, object]) -> None:
    """Tells nobody."""


@dataclass
class Sites:
    """The joined sites by node id, and the grid that reaches them.

    tell      is told what comes in, as it comes
    answered  the sites whose answers to the last question counted
    """

    grid: Grid
    settings: Settings
    clock: Clock = field(default_factory=Clock)
    names: dict[int, str] = field(default_factory=dict[int, str])
    samples: dict[str, int] = field(default_factory=dict[str, int])
    traffic: dict[str, Traffic] = field(default_factory=dict[str, Traffic])
    tell: Callable[[Mapping[str, object]], None] = silent
    answered: list[str] = field(default_factory=list[str])

    def join(self) -> None:
        """Waits until ``min-sites`` nodes are there, and asks those that are new for their names.

        A node that was registered under a name has that name, whatever it says. Raises `JoinError` at the deadline.
        """
        self._wait_for_nodes()
        nodes = {node.node_id: node.name for node in self.grid.get_nodes()}
        self.names = {node_id: name for node_id, name in self.names.items() if node_id in nodes}
        new = [node_id for node_id in nodes if node_id not in self.names]
        for node_id, reply in self._exchange(DESCRIBE, dict.fromkeys(new, RecordDict()), 0):
            said = _said(reply)
            name = nodes[node_id] or str(said.get("name", ""))
            if not SITE_NAME.fullmatch(name):
                logger.warning("node %d is left out: %r cannot be a site's name", node_id, name)
            elif name in self.names.values():
                logger.warning("node %d is left out: the name %r is taken", node_id, name)
            else:
                self.names[node_id] = name
                self.samples[name] = int(str(said.get(TRAIN_SAMPLES, 0)))
        self.names = dict(sorted(self.names.items(), key=lambda item: item[1]))
        self.tell({"joined": list(self.names.values())})
        if len(self.names) < self.settings.min_sites:
            raise JoinError(
                f"{len(self.names)} sites joined ({', '.join(self.names.values())}), "
                f"min-sites is {self.settings.min_sites}. "
                "Look at the log of the sites that are missing, or lower min-sites."
            )

    def ask(
        self,
        message_type: str,
        content: RecordDict | Callable[[str], RecordDict],
        round_number: int,
        only: Collection[str] | None = None,
    ) -> Iterator[tuple[str, Message | None]]:
        """Each site (of ``only``) with its reply to one message, in order of arrival; None from the silent."""
        asked = {i: name for i, name in self.names.items() if only is None or name in only}
        contents = {i: content(name) if callable(content) else content for i, name in asked.items()}
        for node_id, each in contents.items():
            self.traffic.setdefault(asked[node_id], Traffic()).sent += size_of(each)
        replied: list[str] = []
        self.tell(waiting_for(asked.values(), self.settings.round_deadline_seconds))
        for node_id, reply in self._exchange(message_type, contents, round_number):
            if reply is not None and reply.has_content():
                self.traffic[asked[node_id]].received += size_of(reply.content)
            if reply is not None:
                replied.append(asked[node_id])
                self.tell({"replied": replied})
            yield asked[node_id], reply

    def answers(
        self,
        message_type: str,
        content: RecordDict | Callable[[str], RecordDict],
        round_number: int,
        read: Callable[[str, Message], T],
        only: Collection[str] | None = None,
    ) -> dict[str, T]:
        """What ``read`` makes of each site's reply, in site order; the refused are logged and left out."""
        found: dict[str, T] = {}
        for site, reply in self.ask(message_type, content, round_number, only):
            try:
                found[site] = read(site, sound(site, reply))
            except RefusedReply as verdict:
                logger.warning("%s: %s", message_type, verdict)
        self.answered = sorted(found)
        return dict(sorted(found.items()))

    def samples_of(self, most: int) -> int:
        """The training samples, at most ``most`` (0: all) of each, of the sites that answered last."""
        counts = [self.samples.get(site, 0) for site in self.answered]
        return sum(min(count, most) if most else count for count in counts)

    def _exchange(
        self, message_type: str, contents: Mapping[int, RecordDict], round_number: int
    ) -> Iterator[tuple[int, Message | None]]:
        seconds = self.settings.round_deadline_seconds
        messages = [request(node, message_type, each, round_number, seconds) for node, each in contents.items()]
        return exchange(self.grid, messages, seconds, self.clock) if messages else iter(())

    def _wait_for_nodes(self) -> None:
        ends = self.clock.now() + self.settings.join_deadline_seconds
        while (there := len(list(self.grid.get_node_ids()))) < self.settings.min_sites:
            if self.clock.now() >= ends:
                raise JoinError(
                    f"{there} nodes connected within {self.settings.join_deadline_seconds:g} s, "
                    f"min-sites is {self.settings.min_sites}. Start the missing sites, or lower min-sites."
                )
            self.clock.sleep(0.5)


def _said(reply: Message | None) -> ConfigRecord:
    if reply is None or reply.has_error():
        return ConfigRecord()
    return reply.content.config_records.get(DESCRIPTION, ConfigRecord())

"""The sites of a run: who joined, and how to ask them all one thing."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.joining import Answers, Introductions, names_of
from server.live import waiting_for
from server.traffic import Traffic, size_of
from strategies.admission import sound
from strategies.errors import OperatorError, OverflowReply, Reason, RefusedReply
from strategies.exchange import Clock, exchange, persistent
from strategies.protocol import ARRAYS, CONFIG, FIRST, ROUND, START, request
from strategies.settings import Settings
from strategies.spool import Spool

logger = getLogger("fedrebasin")
T = TypeVar("T")


class JoinError(OperatorError):
    """Too few sites joined."""

    exit_code = 14


def silent(changes: Mapping[str, object]) -> None:
    """Tells nobody."""


@dataclass
class Sites:
    """The joined sites by node id, and the grid that reaches them.

    tell      is told what comes in, as it comes
    spool     where answers wait that are too large to be in memory for all sites at once
    answered  the sites whose answers to the last question, or to several that belong together, counted
    merging   the sites whose networks are in this round's merge
    round_number  of the round that is played
    """

    grid: Grid
    settings: Settings
    clock: Clock = field(default_factory=Clock)
    names: dict[int, str] = field(default_factory=dict[int, str])
    samples: dict[str, int] = field(default_factory=dict[str, int])
    traffic: dict[str, Traffic] = field(default_factory=dict[str, Traffic])
    refused: list[RefusedReply] = field(default_factory=list[RefusedReply])
    out: set[str] = field(default_factory=set[str])
    missing: set[str] = field(default_factory=set[str])
    tell: Callable[[Mapping[str, object]], None] = silent
    spool: Spool = field(default_factory=Spool)
    answered: list[str] = field(default_factory=list[str])
    merging: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])
    round_number: int = 0

    def __post_init__(self) -> None:
        self._introductions = Introductions(self.grid, self.settings, self.clock)

    def begin_round(self, number: int) -> None:
        """All that is asked from here on is of round ``number``; forgets what sites did in the round before."""
        self.round_number = number
        self.traffic.clear()
        self.refused.clear()
        self.out.clear()
        self.merging.clear()
        self.notes.clear()

    def note(self, text: str) -> None:
        """Says, in the log and in the round's record, what became of it otherwise than the settings ask for."""
        if text not in self.notes:
            logger.warning("round %d: %s", self.round_number, text)
            self.notes.append(text)

    def all_told(self, told: Collection[str], expected: Collection[str], otherwise: str) -> bool:
        """Whether every site ``expected`` is among those that ``told``; else notes what comes ``otherwise``."""
        lacking = sorted(set(expected) - set(told))
        if lacking:
            self.note(f"{otherwise}, without an answer of {', '.join(lacking)}")
        return not lacking

    def leave_out(self, *verdicts: RefusedReply) -> None:
        """Keeps verdicts. Their sites are not asked again in this round: a bad reply, or none, costs the turn.

        What they gave before counts: a network stays in the merge.
        """
        self.refused.extend(verdicts)
        self.out |= {verdict.site for verdict in verdicts if verdict.reason is not Reason.DUPLICATE}
        self.tell_refused(self.refused)

    def tell_refused(self, verdicts: Iterable[RefusedReply]) -> None:
        """Tells whose replies are refused so far, and why."""
        self.tell({"refused": {verdict.site: verdict.reason.name for verdict in verdicts}})

    def join(self, wanted: str = "") -> None:
        """Waits until ``min-sites`` sites are there, and ``wanted`` if one is, and asks new nodes for their names.

        See `Introductions`. A node that was registered under a name has that name, whatever it says. Sites that took
        part before and are not there are ``missing``. Raises `JoinError` at the deadline where there are too few.
        """
        before = {*self.names.values(), *self.missing}
        self.tell(waiting_for((), self.settings.join_deadline_seconds))
        self._wait_for_nodes()
        self._introduce(wanted)
        self.missing = before - set(self.names.values())
        if self.missing:
            logger.warning("not there any more: %s", ", ".join(sorted(self.missing)))
        self.tell({"joined": list(self.names.values())})
        if len(self.names) < self.settings.min_sites:
            raise self._too_few(
                len(self.names),
                "joined",
                self.names.values(),
                "Look at the log of the sites that are missing, or lower min-sites.",
            )

    def _introduce(self, wanted: str) -> None:
        """Names the nodes that are there, as soon as they are enough; the log says why one has no name."""
        nodes: dict[int, str] = {}
        ends = self.clock.now() + self.settings.join_deadline_seconds

        def look() -> list[int]:
            nodes.clear()
            nodes.update(self._nodes(ends))
            registered = {name for name in nodes.values() if name}
            self.names = {
                node_id: name
                for node_id, name in self.names.items()
                if node_id in nodes and (nodes[node_id] or name not in registered)
            }
            return [node_id for node_id in nodes if node_id not in self.names]

        def named(said: Answers) -> tuple[dict[int, str], list[str]]:
            return names_of(self.names, nodes, {i: said.get(i) for i in nodes if i not in self.names})

        def are_enough(said: Answers) -> bool:
            there = named(said)[0].values()
            return len(there) >= self.settings.min_sites and (not wanted or wanted in there)

        def may_come() -> bool:
            # Nodes of a simulation, which nobody registers, are there from the start; what fails there fails again.
            return not nodes or any(nodes.values())

        said = self._introductions.hear(look, are_enough, may_come)
        self.names, problems = named(said)
        for problem in problems:
            logger.warning("%s", problem)
        self.samples |= {self.names[i]: each.samples for i, each in said.items() if each and i in self.names}

    def ask(
        self,
        message_type: str,
        content: RecordDict | Callable[[str], RecordDict],
        only: Collection[str] | None = None,
    ) -> Iterator[tuple[str, Message | None]]:
        """Each site (of ``only``) with its reply to one message, in order of arrival; None from the silent.

        Sites that are out of this round are not asked.
        """
        asked = {i: n for i, n in self.names.items() if (only is None or n in only) and n not in self.out}
        contents = ((i, content(name) if callable(content) else content) for i, name in asked.items())
        messages = self._messages(message_type, contents)
        yield from self._replies(message_type, list(asked.values()), messages, one_by_one=callable(content))

    def deliver(self, message_type: str, messages: Sequence[Message]) -> Iterator[tuple[str, Message | None]]:
        """Each site with its reply to the message that is meant for it, in order of arrival; None from the silent."""
        yield from self._replies(message_type, [self.names[each.metadata.dst_node_id] for each in messages], messages)

    def _replies(
        self, message_type: str, asked: Sequence[str], messages: Iterable[Message], one_by_one: bool = False
    ) -> Iterator[tuple[str, Message | None]]:
        replied: list[str] = []
        self.tell(waiting_for(asked, self.settings.round_deadline_seconds))
        for node_id, reply in self._exchange(self._counted(messages), one_by_one=one_by_one):
            site = self.names[node_id]
            if reply is not None and reply.has_content():
                self.traffic[site].receive(self.settings, message_type, reply.content)
            if reply is not None:
                replied.append(site)
                # Of a thousand sites not each reply is told, which would cost more than the reply itself.
                if 100 * len(replied) // len(asked) > 100 * (len(replied) - 1) // len(asked):
                    self.tell({"replied": replied})
            yield site, reply

    def _counted(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            site = self.names[message.metadata.dst_node_id]
            self.traffic.setdefault(site, Traffic()).sent += size_of(message.content)
            yield message

    def answers(
        self,
        message_type: str,
        content: RecordDict | Callable[[str], RecordDict],
        read: Callable[[str, Message], T],
        only: Collection[str] | None = None,
    ) -> dict[str, T]:
        """What ``read`` makes of each site's reply, in site order; the refused are logged and left out.

        Where several sites' sums are not finite, or too large, it is what they were asked about that overflows: a note
        says so, and nobody is out. One site alone is. The same holds where several sites, and more than half of them,
        answer with an error.
        """
        found: dict[str, T] = {}
        n_asked = 0
        overflows: list[RefusedReply] = []
        failures: list[RefusedReply] = []
        for site, reply in self.ask(message_type, content, only):
            n_asked += 1
            try:
                found[site] = read(site, sound(site, reply))
            except RefusedReply as verdict:
                logger.warning("%s: %s", message_type, verdict)
                if isinstance(verdict, OverflowReply):
                    overflows.append(verdict)
                elif verdict.reason is Reason.CLIENT_ERROR:
                    failures.append(verdict)
                else:
                    self.leave_out(verdict)
        if len(overflows) > 1:
            where = f"{len(overflows)} of {len(found) + len(overflows)} sites"
            self.note(f"{message_type}: what is asked about overflows at {where}: nobody is out for it")
        elif overflows:
            self.leave_out(*overflows)
        if len(failures) > 1 and 2 * len(failures) > n_asked:
            where = f"{len(failures)} of {n_asked} sites"
            self.note(f"{message_type}: {where} answer with an error: nobody is out for it")
        elif failures:
            self.leave_out(*failures)
        self.answered = sorted(found)
        return dict(sorted(found.items()))

    def samples_of(self, most: int) -> int:
        """The training samples, at most ``most`` (0: all) of each, of the sites that answered last."""
        counts = [self.samples.get(site, 0) for site in self.answered]
        return sum(min(count, most) if most else count for count in counts)

    def to_train(self, sent: ArrayRecord, first: bool, config: Mapping[str, bool]) -> RecordDict:
        """What asks a site to train from ``sent`` or, before the ``first`` merge, from where the settings say."""
        start = self.settings.start if first else "shared"
        asked = ConfigRecord({ROUND: self.round_number, FIRST: first, START: start, **config})
        return RecordDict({ARRAYS: sent, CONFIG: asked})

    def _messages(self, message_type: str, contents: Iterable[tuple[int, RecordDict]]) -> Iterator[Message]:
        seconds = self.settings.round_deadline_seconds
        return (request(node, message_type, each, self.round_number, seconds) for node, each in contents)

    def _exchange(self, messages: Iterable[Message], one_by_one: bool = False) -> Iterator[tuple[int, Message | None]]:
        return exchange(self.grid, messages, self.settings.round_deadline_seconds, self.clock, one_by_one=one_by_one)

    def _nodes(self, ends: float) -> dict[int, str]:
        """The nodes that are there, each with the name under which it is registered, if it is."""
        return {node.node_id: node.name for node in persistent(self.grid.get_nodes, ends, self.clock)}

    def _wait_for_nodes(self) -> None:
        ends = self.clock.now() + self.settings.join_deadline_seconds
        while len(there := self._nodes(ends)) < self.settings.min_sites:
            if self.clock.now() >= ends:
                self.missing = self._gone(there)
                raise self._too_few(
                    len(there),
                    f"there within {self.settings.join_deadline_seconds:g} s",
                    [name or self.names.get(node_id, "") for node_id, name in there.items()],
                    "Start the missing sites, or lower min-sites.",
                )
            self.clock.sleep(0.5)

    def _gone(self, there: Mapping[int, str]) -> set[str]:
        """The sites that took part before, and whose nodes are not ``there``."""
        gone = {*self.missing, *(name for node_id, name in self.names.items() if node_id not in there)}
        # After a restart nobody has been asked yet, but a node that is registered has its name.
        return gone - set(there.values())

    def _too_few(self, n_there: int, how: str, names: Iterable[str], advice: str) -> JoinError:
        """For the operator: so many are there, who of them is known, and who was there and is missing."""
        known = ", ".join(sorted(filter(None, names)))
        gone = f" Not there any more: {', '.join(sorted(self.missing))}." if self.missing else ""
        told = f"{n_there} of {self.settings.min_sites} sites (min-sites) {how}{f': {known}' if known else ''}"
        return JoinError(f"{told}.{gone} {advice}")

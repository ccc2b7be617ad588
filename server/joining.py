"""Who is there: nodes are asked for their names, and few are kept waiting for those that are slow to say it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from strategies.bounds import MOST_EXAMPLES
from strategies.exchange import Clock, receive, send
from strategies.names import is_site_name
from strategies.protocol import DESCRIBE, DESCRIPTION, TRAIN_SAMPLES, request
from strategies.settings import Settings

# No name is so long; more would only fill the log.
MOST_SAID = 100
# How long the others have once `min-sites` have said who they are, where those were faster than that.
GRACE_SECONDS = 60.0
# How often it is looked who has come while there are too few, and how often who fails is asked again.
LOOK_SECONDS, RETRY_SECONDS = 0.5, 15.0


class Said(NamedTuple):
    """What a node says of itself."""

    name: str
    samples: int


# By node id; None of a node that fails.
Answers = Mapping[int, Said | None]


@dataclass
class Introductions:
    """The nodes that were asked who they are and have not answered yet.

    waiting  the node by the number of each message that an answer may still come to
    asked    when each of these nodes was asked last
    """

    grid: Grid
    settings: Settings
    clock: Clock
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    asked: dict[int, float] = field(default_factory=dict[int, float])

    def hear(
        self,
        look: Callable[[], Collection[int]],
        are_enough: Callable[[Answers], bool],
        may_come: Callable[[], bool],
    ) -> Answers:
        """What the nodes that answer in time say of themselves; answers of the others are heard at the next call.

        ``look`` tells which nodes there are to ask. All have ``join-deadline-seconds``. Until there ``are_enough``,
        nodes that come are asked too, and those that fail are asked again, if any ``may_come``. Once there are enough,
        the others have as long again as that took, at least `GRACE_SECONDS`. A node that was silent at the call before
        is then not waited for.
        """
        began = self.clock.now()
        ends, enough_at, looks_at = began + self.settings.join_deadline_seconds, inf, began
        silent = set(self.waiting.values())
        said: dict[int, Said | None] = {}

        def until() -> float:
            if enough_at == inf:
                return min(ends, looks_at)
            if set(self.waiting.values()) - said.keys() <= silent:
                return enough_at
            return min(ends, enough_at + max(GRACE_SECONDS, enough_at - began))

        while enough_at == inf and self.clock.now() < ends:
            self._ask_due(look(), said, ends)
            looks_at = self.clock.now() + LOOK_SECONDS
            if are_enough(said):
                enough_at = self.clock.now()
            for node, reply in receive(self.grid, self.waiting, self.clock, until):
                said[node] = _said(reply)
                if enough_at == inf and are_enough(said):
                    enough_at = self.clock.now()
            if enough_at == inf and not self.waiting:
                if not may_come():
                    break
                self.clock.sleep(LOOK_SECONDS)
        self.waiting = {number: node for number, node in self.waiting.items() if node not in said}
        return said

    def _ask_due(self, nodes: Collection[int], said: dict[int, Said | None], ends: float) -> None:
        """Asks those that were not asked yet, that failed some time ago, and that have been silent for long.

        A SuperNode that was started anew has lost the question.
        """
        self.waiting = {number: node for number, node in self.waiting.items() if node in nodes}
        for node in [node for node, one in said.items() if one is None and self._seconds_since(node) >= RETRY_SECONDS]:
            del said[node]
        waiting, long = set(self.waiting.values()), self.settings.join_deadline_seconds
        due = [node for node in nodes if node not in waiting or self._seconds_since(node) >= long]
        self._ask([node for node in due if node not in said], ends)

    def _seconds_since(self, node: int) -> float:
        return self.clock.now() - self.asked[node]

    def _ask(self, nodes: Collection[int], ends: float) -> None:
        seconds = self.settings.round_deadline_seconds
        messages = [request(node, DESCRIBE, RecordDict(), 0, seconds) for node in nodes]
        self.waiting |= send(self.grid, messages, ends, self.clock)
        self.asked |= dict.fromkeys(nodes, self.clock.now())


def names_of(known: Mapping[int, str], nodes: Mapping[int, str], said: Answers) -> tuple[dict[int, str], list[str]]:
    """The names of the sites, ``known`` ones and those that nodes ``said``, by node id; and why others have none.

    ``nodes`` has the names under which they are registered. Such a node is called so, whatever it says.
    """
    names, registered, problems = dict(known), {name for name in nodes.values() if name}, list[str]()
    taken = set(known.values())
    # Whose name it is does not depend on who is faster.
    for node in sorted(said):
        description = said[node]
        name = nodes[node] or (description.name if description else "")
        if description is None:
            problems.append(f"node {node} ({name or '?'}) does not say who it is: it may join the next round")
        elif not is_site_name(name):
            problems.append(f"node {node} is left out: {name!r} cannot be a site's name")
        elif name in taken or (name in registered and not nodes[node]):
            problems.append(f"node {node} is left out: the name {name!r} is taken")
        else:
            names[node] = name
            taken.add(name)
    return dict(sorted(names.items(), key=lambda item: item[1])), problems


def _said(reply: Message) -> Said | None:
    """That alone, whatever else the reply holds; None of a node that fails."""
    if reply.has_error():
        return None
    said = reply.content.config_records.get(DESCRIPTION, ConfigRecord())
    samples = said.get(TRAIN_SAMPLES)
    # More no site has, and the most that any says is what secure aggregation weighs all by.
    believed = samples if isinstance(samples, int) and 0 <= samples <= MOST_EXAMPLES else 0
    return Said(str(said.get("name", ""))[:MOST_SAID], believed)

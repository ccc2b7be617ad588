"""What left the sites of a run, and where it went: by kind, by round and by site."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from server.records import RoundRecord
from strategies.leaving import KINDS, NETWORKS, OTHER, Kind, network_words
from strategies.sent import sent_lines
from strategies.settings import Settings

YES, NO = "yes", "no"


class Left(NamedTuple):
    """A kind of what sites may send: whether it was sent, or why not, and the bytes of it from all sites together.

    note  more of it
    """

    words: str
    sent: str
    n_bytes: int
    note: str = ""


def left(rounds: Sequence[RoundRecord], settings: Settings | None) -> list[Left]:
    """The kinds that were sent, and then those that were not; ``settings`` say why, as far as they are known.

    What was received by a version that counted no kinds is a row of its own.
    """
    counted = Counter[str]()
    for record in rounds:
        for traffic in record.traffic.values():
            counted.update(traffic.kinds)
    untold = sum(each.received for record in rounds for each in record.traffic.values()) - counted.total()
    rows = [
        Left(
            kind.words,
            YES if counted[kind.name] else _unsent(kind, settings, untold),
            counted[kind.name],
            network_words(settings) if settings and kind.name == NETWORKS and counted[kind.name] else "",
        )
        for kind in KINDS
        if kind.name != OTHER or counted[OTHER]
    ]
    if untold:
        rows.append(Left("some of these, in rounds whose records do not tell them apart", YES, untold))
    return sorted(rows, key=lambda row: row.sent != YES)


def _unsent(kind: Kind, settings: Settings | None, untold: int) -> str:
    lacks = kind.lacks(settings) if settings else ""
    if untold and not lacks:
        return "not known"
    takes = lacks or kind.needs
    return f"{NO}: it takes {takes}" if takes else NO


def told_on(n_sites: int, settings: Settings) -> Iterator[str]:
    """What sites were sent of each other's, a line each."""
    yield "the merged network of each round"
    # A search sends both networks to both anyway.
    last_round = settings.in_round(first=settings.rounds == 1)
    if n_sites == 2 and last_round.merge == last_round.mix == "mean" and settings.rule != "krum":
        last = "" if last_round.head == "mean" else " but for its last layer"
        yield f"with two sites, each can work out the other's network{last} from the merge"
    yield from sent_lines(settings)

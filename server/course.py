"""What the charts of a run's rounds show, in plain sentences; and what a barrier is made of."""

from collections.abc import Iterator, Sequence
from math import isfinite

from server.records import PathRecord, RoundRecord
from server.scores import network_scores, sites_alone
from strategies.references import GLOBAL

ACCURACY = {
    "merged": "merged: the network of that round",
    "best_site": "best site alone: the most that any site's own network{corrected} reached before the first merge, the "
    "same in every round",
    "best_before_merge": "best site before the merge: the most that any of the networks reached which went into that "
    "round's merge, with BatchNorm statistics, if there are any, of all sites; after the first merge sites begin from "
    "the merged network, so this is no site alone",
}
LATER = (
    "After the first merge the sites begin each round from the merged network, so their units are in one order, and "
    "mostly nothing is left to align. The line then leads from that network to what one site made of it with its own "
    "data. Its ends differ the more, the worse the site's network does on the others' data: then the barrier rises "
    "with the rounds, and says nothing of alignment"
)


def course_notes(rounds: Sequence[RoundRecord], is_corrected: bool = False) -> list[str]:
    """A paragraph on each of `server.drawing.course_charts`; sites alone may be measured prior-corrected."""
    corrected = ", with its class frequencies taken out," if is_corrected else ""
    scored = [record for record in rounds if record.merged is not None]
    alone = sites_alone(rounds)
    drawn = {name for record in scored for name in network_scores(record, alone)}
    lines = [words.format(corrected=corrected) for name, words in ACCURACY.items() if name in drawn]
    accuracy = f"Accuracy, on the held-out samples of all sites. {'. '.join(map(_capital, lines))}."
    probed = [record for record in scored if record.barrier is not None]
    return [accuracy, " ".join(_of_barriers(probed))] if probed else [accuracy]


def _of_barriers(probed: Sequence[RoundRecord]) -> Iterator[str]:
    yield "Barrier: the greatest of the lines from the round's reference to the sites' networks."
    last = probed[-1]
    if len(probed) > 1 and last.reference == GLOBAL and last.paths:
        yield f"{LATER}."
        site, paths = max(last.paths.items(), key=lambda item: item[1].aligned.barrier)
        if isfinite(half := half_difference(paths.aligned)):
            yield f"In round {last.round} it is {paths.aligned.barrier:.3f}, on the line to {site}: {half:.3f} of that"
            yield "is half the difference between the ends, which no line can be below."


def half_difference(path: PathRecord) -> float:
    """½ |L(0) − L(1)|: what is left of the barrier of a line that nowhere rises above its worse end."""
    return abs(path.losses[0] - path.losses[-1]) / 2


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

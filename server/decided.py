"""What decided a merge: the guard, the search, the comparison of last layers, each with the losses that it saw."""

from collections.abc import Iterator
from typing import NamedTuple

from server.records import GuardRecord, HeadRecord, RoundRecord
from strategies.names import MIDDLE

GUARD = {
    "unmoved": "nothing to align",
    "aligned": "alignment kept",
    "undone": "alignment undone",
    "unseen": "alignment kept, with nothing to judge it by",
}


# What records call a reference that is no site's.
KNOWN = {"global": "the network that was sent out", "given": "the given network"}


class Decided(NamedTuple):
    """One row: what it is about, what came of it, and the loss without and with what was tried, where these are known.

    name  what was tried, and where
    """

    name: str
    outcome: str
    without: float | None = None
    tried: float | None = None


def decided(record: RoundRecord) -> list[Decided]:
    """The rows of a round, in the order in which they were decided; none where nothing was."""
    return [*_guard(record.guard), *_search(record), *_head(record.head)]


def taken(record: RoundRecord) -> str:
    """What ``mix`` came to in a round; empty where it chose nothing."""
    if not record.mix:
        return ""
    if record.mix[-1].as_it_is:
        return f"the network of {record.mix[-1].towards} as it is"
    end, is_whole = record.reference, True
    for step in record.mix:
        if step.lam > 0:
            end, is_whole = step.towards, step.lam == 1.0 and not step.stage
    if not is_whole:
        return "a mixture of the networks"
    if end == MIDDLE:
        return "the merge of all sites"
    return f"{KNOWN.get(end, f'the network of {end}')}, renewed on all sites' samples"


def _guard(guard: dict[str, GuardRecord]) -> Iterator[Decided]:
    """A row for all sites of which the same was seen: by the mean of all, that is each of them; none if none moved."""
    if all(each.decision == "unmoved" for each in guard.values()):
        return
    alike: dict[tuple[str, float | None, float | None], list[str]] = {}
    for site, each in sorted(guard.items()):
        alike.setdefault((each.decision, each.naive_loss, each.aligned_loss), []).append(site)
    for (decision, naive, aligned), sites in alike.items():
        yield Decided(f"guard: {', '.join(sites)}", GUARD.get(decision, decision), naive, aligned)


def _search(record: RoundRecord) -> Iterator[Decided]:
    """The lines on which something was taken, how many others there were, and what came of it."""
    lines = [step for step in record.mix if not step.as_it_is]
    for step in lines:
        if step.lam > 0:
            name = f"mix: {step.stage or 'all layers'}, towards {step.towards}"
            yield Decided(name, f"λ = {step.lam:.3g}", step.before, step.loss)
    if stayed := sum(step.lam == 0 for step in lines):
        yield Decided("mix", f"nothing taken on {stayed} of {len(lines)} lines")
    if record.mix:
        last = record.mix[-1]
        what = taken(record)
        yield (
            Decided("mix", f"taken instead: {what}", last.before, last.loss)
            if last.as_it_is
            else Decided("mix", f"taken: {what}")
        )


def _head(head: HeadRecord | None) -> Iterator[Decided]:
    if head is None:
        return
    tried = None if head.logistic is None else head.logistic.loss
    trips = f"{head.trips} trip{'' if head.trips == 1 else 's'}"
    yield Decided(f"last layer: logistic regression, {trips}", f"{head.kept} kept", head.ridge.loss, tried)

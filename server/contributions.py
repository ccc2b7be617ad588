"""What each site gave to a run, and what became of it."""

from collections.abc import Sequence
from typing import NamedTuple

from server.records import PathRecord, RefusedRecord, RoundRecord, Score

MEAN = "mean"


class Contribution(NamedTuple):
    """One site over all rounds: what it gave, and how its own network stood.

    rounds   the rounds into whose merge its network went
    share    its share in the last merge that it was in, 0..1; see `shares`
    refused  the rounds in which a reply of it was refused, with the reasons
    at_home, alone  its network on its own held-out samples, as last measured; on all, before the first merge
    naive, aligned  the path to it in the first merge that was probed; none of the reference itself
    """

    site: str
    rounds: list[int]
    share: float | None
    refused: list[tuple[int, str]]
    at_home: Score | None
    alone: Score | None
    naive: PathRecord | None
    aligned: PathRecord | None
    received: int
    sent: int


def contributions(rounds: Sequence[RoundRecord], rule: str) -> list[Contribution]:
    """One for each site that was ever asked, in the order of names, of a run that merges by ``rule``."""
    named = {name for record in rounds for name in (*record.weights, *(r.site for r in record.refused))}
    return [_of(site, rounds, rule) for site in sorted(named)]


def _of(site: str, rounds: Sequence[RoundRecord], rule: str) -> Contribution:
    merged = [record for record in rounds if record.outcome == "merged" and site in record.weights]
    first = next((record for record in rounds if record.outcome == "merged"), None)
    probed = next((record for record in rounds if record.paths), None)
    paths = probed.paths.get(site) if probed else None
    last = merged[-1] if merged else None
    return Contribution(
        site=site,
        rounds=[record.round for record in merged],
        share=shares(last, rule).get(site) if last else None,
        refused=[
            (record.round, refusal(one, record)) for record in rounds for one in record.refused if one.site == site
        ],
        at_home=next((record.own[site] for record in reversed(rounds) if site in record.own), None),
        alone=first.baselines.get(site) if first and site in first.weights else None,
        naive=paths.naive if paths else None,
        aligned=paths.aligned if paths else None,
        received=sum(record.traffic[site].received for record in rounds if site in record.traffic),
        sent=sum(record.traffic[site].sent for record in rounds if site in record.traffic),
    )


def shares(record: RoundRecord, rule: str) -> dict[str, float]:
    """By site, its share in the mean, 0..1; of none where the run's ``rule`` is no mean, and goes by no weights."""
    total = sum(record.weights.values())
    return {site: weight / total for site, weight in record.weights.items()} if rule == MEAN and total else {}


def refusal(one: RefusedRecord, record: RoundRecord) -> str:
    """A refusal of that round in words: after one at a later question the site's network counts all the same."""
    counts = record.outcome == "merged" and one.site in record.weights
    return reason_of(one.reason) + (" (its network is in the merge)" if counts else "")


def reason_of(name: str) -> str:
    """A refusal's reason in words, such as "client error"."""
    return name.lower().replace("_", " ")

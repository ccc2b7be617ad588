"""What of a merge was chosen by the held-out samples that judge it: such a choice flatters what is chosen."""

from collections.abc import Sequence
from typing import NamedTuple

from server.records import RoundRecord
from strategies.settings import Settings

JUDGED = ("aligned", "undone")
# How a note of `server.heads` begins, which holds torch: who writes reports need not.
UNSOLVED = "the last layer stays as it was"


class Chosen(NamedTuple):
    """What was chosen, one clause each, in the order in which it happens; none where nothing was.

    answers  whether a choice can change answers: the factor of the last layer's outputs changes losses alone
    solved   whether the last layer was solved, for which training samples alone count
    """

    clauses: list[str]
    answers: bool
    solved: bool


def chosen(rounds: Sequence[RoundRecord], settings: Settings | None) -> Chosen:
    """The choices of all rounds that merged, since each starts from the one before.

    Without ``settings``, as far as records tell.
    """
    merged = [record for record in rounds if record.outcome == "merged"]
    steps = [step for record in merged for step in record.mix]
    n_lines = sum(not step.as_it_is for step in steps)
    solves = settings is not None and settings.solves_head
    compared = any(record.head is not None and record.head.logistic is not None for record in merged)
    solved = any(record.head is not None or (solves and _is_solved(record)) for record in merged)
    instead = ", and then a site's own network instead" if len(steps) > n_lines else ""
    lines = "1 line" if n_lines == 1 else f"each of {n_lines} lines"
    clauses = {
        "the guard kept or undid each alignment": any(map(_is_guarded, merged)),
        f"mix chose the network, one point on {lines}{instead}": n_lines > 0,
        "the last layer by logistic regression was held against that by ridge regression": compared,
        "the factor of the last layer's outputs was set, which changes losses and no answer": solved,
    }
    found = [clause for clause, holds in clauses.items() if holds]
    return Chosen(found, answers=len(found) > solved, solved=solved)


def _is_guarded(record: RoundRecord) -> bool:
    """Whether a loss decided about an alignment."""
    return any(
        each.decision in JUDGED and (each.naive_loss is not None or each.aligned_loss is not None)
        for each in record.guard.values()
    )


def _is_solved(record: RoundRecord) -> bool:
    """Whether the last layer is one that was solved: at the end, or by the search at the point that it took."""
    return bool(record.mix) or not any(note.startswith(UNSOLVED) for note in record.notes)

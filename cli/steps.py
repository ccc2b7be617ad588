"""Where a run is, for who waits: which round and phase of how many, for how long, and what each round took."""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from cli.bars import Bars, bars
from cli.output import as_clock, progress
from server.errors import StoreError
from server.live import ENDS, STARTING
from server.phases import phases
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.settings import Settings

# The phases of a round that are named with what they took: the longest.
MOST_NAMED = 3


@dataclass
class Steps:
    """What is done now: on a terminal a bar, elsewhere a line whenever it changes, with the time since the start."""

    bars: Bars
    began: float = field(default_factory=time.monotonic)
    said: str = ""
    stretch: ExitStack = field(default_factory=ExitStack)

    def show(self, title: str, number: int = 0, of: int = 0) -> None:
        """``title`` is what is done now, and, where that is known, step ``number`` ``of`` so many."""
        if title == self.said:
            return
        self.said = title
        if not progress.is_terminal:
            self.tell(f"{title}, phase {number} of {of}" if of else title)
            return
        self.stretch.close()
        self.stretch.enter_context(self.bars.stretch(title, of or None, number))

    def tell(self, text: str) -> None:
        """A line that stays, after the time since the start."""
        clock = as_clock(time.monotonic() - self.began)
        progress.print(f"{clock:>5}  {text}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def steps(first: str) -> Generator[Steps]:
    """Steps for as long as the block runs, of which ``first`` is the first."""
    with bars() as shown, ExitStack() as stack:
        found = Steps(shown)
        stack.callback(found.stretch.close)
        found.show(first)
        yield found


def following(store: RunStore, settings: Settings, shown: Steps) -> Callable[[], bool]:
    """What looks at a run, shows where it is, tells of each round that is over, and says whether the run has ended."""
    n_told = len(_finished(store))

    def look() -> bool:
        nonlocal n_told
        now = store.told() or {"round": 0, "phase": STARTING}
        phase, rounds = str(now["phase"]), _finished(store)
        for record in rounds[n_told:]:
            shown.tell(_round_line(record, settings))
        n_told = max(n_told, len(rounds))
        if phase == STARTING or phase in ENDS:
            shown.show("the run begins" if phase == STARTING else "the run ends")
            return phase in ENDS
        # The record of a round stands a moment before the round is over.
        first = not any(record.outcome == "merged" for record in rounds if record.round != now["round"])
        expected = phases(settings, first)
        title = f"round {now['round']} of {settings.rounds}: {phase}"
        if phase in expected:
            shown.show(title, expected.index(phase) + 1, len(expected))
        else:
            shown.show(title)
        return False

    return look


def _finished(store: RunStore) -> list[RoundRecord]:
    # What is wrong with the records is for the run to say, and for the report.
    try:
        return read_rounds(store)
    except StoreError:
        return []


def _round_line(record: RoundRecord, settings: Settings) -> str:
    longest = sorted(record.seconds, key=lambda phase: -record.seconds[phase])[:MOST_NAMED]
    named = ", ".join(f"{phase} {record.seconds[phase]:.1f} s" for phase in longest)
    outcome = "merged" if record.outcome == "merged" else "came to nothing"
    return f"round {record.round} of {settings.rounds} {outcome} in {sum(record.seconds.values()):.0f} s: {named}"

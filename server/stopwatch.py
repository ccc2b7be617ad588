"""How long the phases of a round take, and what of them its record tells."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.records import HeadRecord
from server.store import RunStore


@dataclass
class Stopwatch:
    """Seconds by phase; tells the store which phase it is."""

    store: RunStore
    round_number: int
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    recalibration_samples: int = 0
    head: HeadRecord | None = None

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Times what happens inside."""
        self.store.status(self.round_number, name)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

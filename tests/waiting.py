"""Waiting for what other processes do, and what goes on beside a test."""

import threading
import time
from collections.abc import Callable


def wait_until(there: Callable[[], object], seconds: float, what: Callable[[], str] | str, every: float = 0.2) -> None:
    """Returns when ``there`` says so; fails, with ``what`` was waited for, when it has not within ``seconds``."""
    ends = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what() if callable(what) else what}"
        time.sleep(every)


class Beside:
    """Does something again and again in a thread, for as long as the block lasts."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._stop.wait(self._seconds):
            self.once()

    def once(self) -> None:
        """What is done; each kind has its own."""
        raise NotImplementedError

"""Ending on request leaves nothing running: SIGTERM unwinds the stack as Ctrl-C does, once."""

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from server.lock import is_played
from strategies.errors import OperatorError

if TYPE_CHECKING:
    # It keeps tensors too, and a site's supervisor holds no torch.
    from server.store import RunStore

# A ServerApp whose run was stopped learns of it when it next says that it lives.
ENDS_WITHIN_SECONDS = 30.0
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(OperatorError):  # noqa: N818 - nothing went wrong
    """Somebody ended the command."""

    exit_code = 130


@contextmanager
def terminable() -> Generator[None]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP raises `KeyboardInterrupt`, so that ``finally`` blocks end things.

    Those that follow are ignored: a second Ctrl-C would break off just what ends the processes that were started.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for sign in ENDINGS:
            signal.signal(sign, signal.SIG_IGN)
        # Not through a console, which may be in the middle of a line when the signal comes.
        os.write(2, b"\nfedrebasin: ending what was started; this takes a few seconds\n")
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


def tell_interrupted(store: "RunStore") -> None:
    """Has the store of a run that was ended say so, once its process has let go of it.

    A killed process gives up its memory, by which it is known, before its files, by which it holds the store.
    """
    ends = time.monotonic() + ENDS_WITHIN_SECONDS
    while is_played(store.directory) and time.monotonic() < ends:
        time.sleep(0.1)
    store.tell_end("interrupted", Interrupted.exit_code)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Inside, such a signal waits until the block has ended; so it does in programs that are started there.

    These inherit what this thread blocks. Here it may come to any other thread, and is noted then.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    try:
        with _handled_by(note):
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Inside, ``handler`` has such signals; afterwards whoever had them before."""
    before = {sign: signal.signal(sign, handler) for sign in ENDINGS}
    try:
        yield
    finally:
        for sign, each in before.items():
            signal.signal(sign, each)

"""Where the command starts: ready to be interrupted from its first moment."""

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

# As shells have it of a command that Ctrl-C ended.
INTERRUPTED = 130


def main() -> None:
    """Runs the command; Ctrl-C ends it without a traceback, also before it looks after that itself."""
    try:
        with ending_at_once():
            from cli.main import main as run
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def ending_at_once() -> Generator[None]:
    """Inside, Ctrl-C ends the process: an exception in the middle of an import may be caught or told by anything."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

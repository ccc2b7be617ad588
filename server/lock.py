"""Who plays a run: a lock on a file in its folder, which goes with the process, however that ends."""

import fcntl
import time
from pathlib import Path
from typing import TextIO

NAME = ".lock"
TRIES, PAUSE_SECONDS = 20, 0.05


def take(file: TextIO) -> bool:
    """Whether the lock is this process's now, until ``file`` is closed.

    Tried for a second: `is_played`, in another process, has it for an instant.
    """
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        else:
            return True
    return False


def is_played(folder: Path) -> bool | None:
    """Whether a process plays the run in ``folder``; None where that cannot be told.

    Reading is enough, so that it also works on a read-only mount, and from another container on the same kernel.
    """
    try:
        with (folder / NAME).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False

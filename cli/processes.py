"""The processes that Flower and Ray start, however far removed: found by their environment, and ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

# While a process starts a program the kernel shows no environment of it: of 100,000 looks at one that did nothing else,
# 300 to 600 saw none, for up to 4 ms.
LOOKS_THAT_FIND_NONE = 3


def end_all(process: "subprocess.Popen[bytes]", home: Path) -> list[int]:
    """Ends ``process`` and every process that it started, however far removed; returns those that live on.

    They are asked first. Ray's workers leave the SuperLink's session, and some do not heed SIGTERM; all of them inherit
    ``FLWR_HOME``. Its agents write their title over the environment that the kernel shows, and are known by the
    session that they share with others.
    """
    sessions: set[int] = set()
    return _end(lambda: _members(process, home, sessions))


def end_left(home: Path, folders: Collection[Path]) -> list[int]:
    """Ends the processes of ``home``, and those that were told of ``folders``; returns those that live on.

    Of a run that was killed: the session that they lie in may be a shell's, and nobody else in it is touched.
    """
    return _end(lambda: left_running(home, folders))


def left_running(home: Path, folders: Collection[Path]) -> list[int]:
    """The living processes of ``home``, and those that were told of ``folders``."""
    return sorted({*processes_of(home), *(each for folder in folders for each in _told_of(folder))})


def _end(members_now: Callable[[], list[int]]) -> list[int]:
    for sign, seconds in ((signal.SIGTERM, 4.0), (signal.SIGKILL, 6.0)):
        ends = time.monotonic() + seconds
        looks = 0
        while time.monotonic() < ends:
            members = members_now()
            looks = 0 if members else looks + 1
            if looks == LOOKS_THAT_FIND_NONE:
                return []
            for member in members:
                _signal(member, sign)
            time.sleep(0.2)
    return members_now()


def _members(process: "subprocess.Popen[bytes]", home: Path, sessions: set[int]) -> list[int]:
    """The living processes: those of ``home``, others in their sessions, and ``process`` itself.

    ``sessions`` learns what sessions these are, but for this process's own. A dead ``process`` is reaped.
    """
    marked = {*processes_of(home), *_leader(process)}
    sessions |= {_session_of(number) for number in marked} - {0, os.getsid(0)}
    beside = {number for entry in _entries() if _session_of(number := int(entry.name)) in sessions}
    return sorted(marked | beside)


def processes_of(home: Path) -> list[int]:
    """The living processes whose environment names ``home`` as Flower's; none on systems without ``/proc``."""
    marker = f"FLWR_HOME={home}".encode()
    return [int(entry.name) for entry in _entries() if marker in _read(entry / "environ").split(b"\0")]


def _told_of(folder: Path) -> list[int]:
    """The living processes in whose command line ``folder`` stands: nginx writes a title over its environment."""
    word = f" {folder} ".encode()
    return [int(entry.name) for entry in _entries() if word in _read(entry / "cmdline").replace(b"\0", b" ")]


def _entries() -> list[Path]:
    """Those of all other processes in ``/proc``."""
    return [entry for entry in Path("/proc").glob("[0-9]*") if entry.name != str(os.getpid())]


def _session_of(process_id: int) -> int:
    """The session of a living process; 0 of one that is dead, whose parent may not have asked about it yet."""
    try:
        state, session = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()[0:4:3]
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else int(session)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Gone since it was listed, or another user's.
        return b""


def _leader(process: "subprocess.Popen[bytes]") -> list[int]:
    return [process.pid] if process.poll() is None else []


def _signal(process_id: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process_id, sign)

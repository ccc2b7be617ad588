"""A run's ``rounds.jsonl``, read as it grows: each line once, whatever state the file is in."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from server.records import RoundRecord
from server.tally import Tally

MOST_BYTES = 4 << 20  # at a time: a twentieth of a second's parsing
LONGEST_LINE_BYTES = 64 << 20
MOST_SMALL_BYTES = 1 << 20


@dataclass
class Tail:
    """Where the reading stands, and what has been read adds up to.

    unreadable  lines that are no record of a round
    unread      bytes that are there and were left for the next time
    """

    path: Path
    tally: Tally = field(default_factory=Tally)
    offset: int = 0
    unread: int = 0
    unreadable: int = 0
    _inode: int = 0

    def read(self, most_bytes: int = MOST_BYTES) -> bool:
        """Reads on, at most ``most_bytes`` and the rest of a line; a half-written line is left until it is whole.

        A file that is gone, no file or not for us to read changes nothing; one that was replaced is read anew. Whether
        this began at the file's beginning: then what was read adds up to less than it did, or than it will.
        """
        anew = False
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode):
                return anew
            if found.st_ino != self._inode or found.st_size < self.offset:
                self.tally, self.offset, self.unreadable = Tally(), 0, 0
                self._inode, anew = found.st_ino, True
            if found.st_size > self.offset:
                self._take(self._lines(most_bytes))
        except OSError:
            return anew
        self.unread = max(0, found.st_size - self.offset)
        return anew

    def _lines(self, most_bytes: int) -> bytes:
        """What comes next, up to the last end of a line; empty while there is none."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            chunk = file.read(most_bytes)
            if b"\n" not in chunk and len(chunk) == most_bytes:
                chunk += file.read(LONGEST_LINE_BYTES - most_bytes)
        end = chunk.rfind(b"\n") + 1
        if not end and len(chunk) >= LONGEST_LINE_BYTES:
            # Of a line that long no record is made: it is left behind, and what is left of it will be unreadable.
            self.offset += len(chunk)
        return chunk[:end]

    def _take(self, lines: bytes) -> None:
        self.offset += len(lines)
        for line in lines.split(b"\n")[:-1]:
            try:
                self.tally.add(RoundRecord.model_validate_json(line))
            except ValidationError:
                self.unreadable += 1


def read_small(path: Path) -> bytes | None:
    """The content of a regular file of at most `MOST_SMALL_BYTES`; None for anything else, without waiting on it."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            return file.read() if stat.S_ISREG(found.st_mode) and found.st_size <= MOST_SMALL_BYTES else None
    except OSError:
        return None


def _open_at_once(path: str, flags: int) -> int:
    """A descriptor, even of a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)

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

    A run that takes rounds back, as one whose last network is damaged does, leaves out their lines. They stay counted,
    and those that come in their places are not counted: to Prometheus a counter that falls has begun at zero, and what
    it holds is new.

    unreadable  lines that are no record of a round
    unread      bytes that are there and were left for the next time
    """

    path: Path
    tally: Tally = field(default_factory=Tally)
    offset: int = 0
    unread: int = 0
    unreadable: int = 0
    _inode: int = 0
    _first: bytes = b""
    _place: int = 0
    _counted: int = 0

    def read(self, most_bytes: int = MOST_BYTES) -> bool:
        """Reads on, at most ``most_bytes`` and the rest of a line; a half-written line is left until it is whole.

        A file that is gone, no file or not for us to read changes nothing; one that was replaced is read anew. Returns
        whether this began at the file's beginning: then what was read may add up to less than it did, or than it will.
        """
        anew = False
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode):
                return anew
            if found.st_ino != self._inode or found.st_size < self.offset:
                self.offset, self.unreadable, self._place = 0, 0, 0
                self._inode, anew = found.st_ino, True
                if not found.st_size:
                    self._begin(b"")
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
            if not self._place:
                self._begin(line)
            self._place += 1
            try:
                record = RoundRecord.model_validate_json(line)
            except ValidationError:
                self.unreadable += 1
                continue
            if self._place > self._counted:
                self.tally.add(record)
                self._counted = self._place
            else:
                self.tally.see(record)

    def _begin(self, first: bytes) -> None:
        """Goes by the ``first`` line: where it is the one of before, so is the run."""
        if first == self._first:
            self.tally = self.tally.again()
        else:
            self.tally, self._first, self._counted = Tally(), first, 0


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

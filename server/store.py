"""The run store: what a run leaves on disk, one folder per run.

====================================  ==================================================================
``settings.json``                     the settings
``rounds.jsonl``                      one line per finished round, with the SHA-256 of its network
``status.json``                       what the run is doing at this moment
``.lock``                             held by the process that plays the run
``checkpoints/round-0001.safetensors``  the merged networks of the last rounds, and that of least loss
``result.json``                       the summary of a finished run
``report.html``                       the page for people
``sites/NAME/``                       in simulation, what each site keeps
====================================  ==================================================================

Every file is written aside, synced and renamed; ``rounds.jsonl`` is appended to and synced: a line is there, whole,
when the network that it tells of is. All of it is JSON and safetensors: nothing here can execute.
"""

import json
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import cast

from torch import Tensor

from server.errors import StoreError
from server.live import ENDS, STARTING, failure, resident_bytes
from server.lock import NAME, is_played, take
from strategies.files import append_line, numbered, sha256_of, write_bytes, write_text
from strategies.tensor_files import read_tensors, write_tensors

Record = Mapping[str, object]
logger = getLogger("fedrebasin")


@dataclass(frozen=True)
class RunStore:
    """One run's folder."""

    directory: Path

    @property
    def rounds_path(self) -> Path:
        """Where the rounds' lines lie."""
        return self.directory / "rounds.jsonl"

    @contextmanager
    def held(self) -> Generator[None]:
        """The folder for this process alone. Raises `StoreError` while another process plays the run."""
        self.make()
        with (self.directory / NAME).open("a+", encoding="utf-8") as file:
            if not take(file):
                raise self._played()
            yield

    def check_writable(self) -> None:
        """Raises `StoreError` when the folder is not ours, cannot be made, or another process plays the run."""
        try:
            there = next(path for path in (self.directory, *self.directory.parents) if path.exists())
            played = is_played(self.directory)
        except OSError as error:
            raise StoreError(f"run {self.directory.name!r}: {self.directory}: {error.strerror}") from error
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            problem = "not ours to write to" if there.is_dir() else "a file, expected a folder"
            raise StoreError(f"run {self.directory.name!r}: {there} is {problem}; name another folder with --runs")
        if played:
            raise self._played()

    def _played(self) -> StoreError:
        return StoreError(
            f"run {self.directory.name!r}: another process plays it in {self.directory}; wait for it, end it, or name "
            "another run"
        )

    def make(self) -> None:
        """Makes the folder. Raises `StoreError` where it cannot be."""
        try:
            (self.directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"run {self.directory.name!r}: cannot write to {self.directory}: {error.strerror}; name another folder "
                "with runs-dir or --runs"
            ) from error

    def write_json(self, name: str, record: Record, synced: bool = True) -> Path:
        """Replaces the file ``name`` by ``record``, whole or not at all."""
        return self.write_text(name, json.dumps(record, indent=1, ensure_ascii=False) + "\n", synced)

    def write_text(self, name: str, text: str, synced: bool = True) -> Path:
        """Replaces the file ``name`` by ``text``, whole or not at all."""
        return write_text(self.directory / name, text, synced)

    def read_json(self, name: str) -> dict[str, object] | None:
        """What `write_json` wrote, or None before it did. Raises `StoreError` for a file that holds no JSON object."""
        path = self.directory / name
        if not path.exists():
            return None
        content = path.read_bytes()
        try:
            found = json.loads(content)
        except ValueError as error:
            raise StoreError(_unreadable(path, f"{len(content)} bytes that are no JSON: {error}")) from error
        if not isinstance(found, dict):
            raise StoreError(_unreadable(path, type(found).__name__))
        return cast(dict[str, object], found)

    def status(self, round_number: int, phase: str) -> None:
        """Says what the run is doing now; no replies are waited for as yet."""
        said = {"round": round_number, "phase": phase, "since": time.time(), "deadline": None}
        # A run that goes on has left behind it what ended it before.
        self.tell({**said, "reason": "", "exit-code": 0})

    def told(self) -> dict[str, object]:
        """What ``status.json`` says; nothing where it is not there, or holds something else: it is written anew."""
        try:
            return self.read_json("status.json") or {}
        except StoreError:
            return {}

    def tell(self, changes: Record) -> None:
        """Changes what ``status.json`` says of the run, and leaves the rest as it was; see `server.live`."""
        now = time.time()
        before = self.told() or {"started": now, "round": 0, "phase": STARTING, "since": now}
        said = {**before, "updated": now, "resident_bytes": resident_bytes(), **changes}
        # It is told with every reply, and after a loss of power nothing of it holds but how the run had ended.
        self.write_json("status.json", said, synced=said.get("phase") in ENDS)

    def tell_end(self, reason: str, exit_code: int) -> None:
        """Says that the run has failed, for one that died and could not; while a process plays it, nothing.

        For whoever waited for the run. Where that one cannot read or write the store it stays as it is: `is_played`
        tells the rest.
        """
        try:
            said = self.told()
            if said and said.get("phase") not in ENDS and not is_played(self.directory):
                self.tell({**failure(reason, exit_code), "resident_bytes": said.get("resident_bytes", 0)})
        except OSError as error:
            logger.info("%s: its end is not told: %s", self.directory, error)

    def finish_round(self, record: Record, state: Mapping[str, Tensor]) -> None:
        """Keeps a round's network first and its line second: a line without its network never exists."""
        path = write_tensors(self.checkpoint_path(int(str(record["round"]))), state)
        told = {**record, "checkpoint_sha256": sha256_of(path), "checkpoint_bytes": path.stat().st_size}
        append_line(self.rounds_path, json.dumps(told, ensure_ascii=False))

    def forget_before(self, round_number: int, but: int = 0) -> None:
        """Removes the networks of the rounds before ``round_number``, ``but`` that of one; their lines stay."""
        for path, number in numbered(self.directory / "checkpoints", "round-").items():
            if number < round_number and number != but:
                path.unlink(missing_ok=True)

    def checkpoint_path(self, round_number: int) -> Path:
        """Where a round's merged network lies."""
        return self.directory / "checkpoints" / f"round-{round_number:04d}.safetensors"

    def lines(self) -> list[bytes]:
        """The whole lines of ``rounds.jsonl``; a half-written last one is left out."""
        # Split at line feeds alone: the text of a site's error may hold what else ends a line.
        return self.rounds_path.read_bytes().split(b"\n")[:-1] if self.rounds_path.exists() else []

    def ends_whole(self) -> bool:
        """Whether the last line of ``rounds.jsonl`` was written to its end."""
        return not self.rounds_path.exists() or self.rounds_path.read_bytes()[-1:] in (b"", b"\n")

    def keep_rounds(self, count: int) -> None:
        """Leaves the first ``count`` lines in ``rounds.jsonl``; all that stood there goes to ``rounds.before.jsonl``.

        What was put aside before stays there.
        """
        kept = b"".join(line + b"\n" for line in self.lines()[:count])
        before = self.directory / "rounds.before.jsonl"
        put_aside = before.read_bytes() if before.exists() else b""
        # Half a line stays one by itself.
        parted = b"\n" if put_aside[-1:] not in (b"", b"\n") else b""
        write_bytes(before, put_aside + parted + self.rounds_path.read_bytes())
        write_bytes(self.rounds_path, kept)

    def network(self, round_number: int) -> dict[str, Tensor]:
        """A round's merged network."""
        return read_tensors(self.checkpoint_path(round_number))


def _unreadable(path: Path, got: str) -> str:
    return (
        f"{path}: expected a JSON object, got {got}. Something else wrote there, or the disk lost it: restore the file "
        "from a backup, or name another run"
    )

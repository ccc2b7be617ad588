"""The runs of a folder, followed: of each federation one, with its rounds and what it is doing now."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, ValidationError

from server.contributions import MEAN
from server.live import STARTING, Status
from server.lock import is_played
from server.tail import Tail, read_small
from strategies.settings import NAME

T = TypeVar("T", bound=BaseModel)
# Between the word that a run is being started, and the lock, lies what Flower needs to start the process that takes it.
STARTING_SECONDS = 60.0


class Told(BaseModel, frozen=True):
    """What the exporter tells of a run's ``settings.json``; other keys, of other versions, do not matter."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: name.replace("_", "-")), extra="ignore"
    )

    run: Annotated[str, Field(pattern=NAME)]
    federation: Annotated[str, Field(pattern=NAME)] = "federation"
    model: str = ""
    data: str = ""
    start: str = ""
    align_at: str = ""
    merge: str = ""
    rule: str = MEAN
    head: str = ""
    privacy: str = ""
    min_sites: int = 0
    rounds: int = 0
    round_deadline_seconds: float = 0.0


@dataclass
class Cached(Generic[T]):
    """A small JSON file, parsed again only when it has changed; what it last said while it cannot be read.

    problem  why it cannot be read as it is now; empty while it can, or is not there
    """

    path: Path
    kind: type[T]
    value: T | None = None
    problem: str = ""
    _seen: tuple[int, int, int] = (0, 0, 0)

    def read(self) -> T | None:
        """What the file says."""
        try:
            found = self.path.stat()
        except OSError:
            return self.value
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            self.problem = self._parse(read_small(self.path))
            self._seen = self._seen if self.problem else seen
        return self.value

    def _parse(self, content: bytes | None) -> str:
        if content is None:
            return "no small file that we may read"
        try:
            self.value = self.kind.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        return ""


@dataclass(frozen=True)
class Run:
    """One run as it stands: what was asked for, what it is doing, and its finished rounds.

    played  whether a process plays it; None where it has ended, is just being started, or that cannot be told
    """

    told: Told
    status: Status
    tail: Tail
    played: bool | None = None

    @property
    def state(self) -> str:
        """One of `server.live.STATES`; a run of which nobody knows whether it is played counts as active."""
        if self.status.has_ended:
            return self.status.phase
        return "dead" if self.played is False else "active"

    def catch_up(self) -> None:
        """Reads all rounds that are there. Half a line stays unread: whoever writes it may be gone."""
        before = -1
        while self.tail.offset != before:
            before = self.tail.offset
            self.tail.read()

    @property
    def order(self) -> tuple[bool, float, float, str]:
        """A key that is greatest for the run to show.

        A run that is played comes before all others; of several the one that began last, since by what was last heard
        they would take turns. Of runs that nobody plays it is the one last heard of: a run that was resumed keeps when
        it began, and shows how it ended though another began later. The folder's name tells a copy from its run. A run
        of a version that did not say when it started counts from what it did say.
        """
        status, folder = self.status, self.tail.path.parent.name
        began, heard = status.started or status.since, status.updated or status.since
        return (True, began, heard, folder) if self.played else (False, heard, began, folder)


@dataclass
class Folder:
    """The files of one run."""

    path: Path
    told: Cached[Told]
    status: Cached[Status]
    tail: Tail

    @classmethod
    def at(cls, path: Path) -> "Folder":
        """Those under ``path``."""
        told, status = Cached(path / "settings.json", Told), Cached(path / "status.json", Status)
        return cls(path, told, status, Tail(path / "rounds.jsonl"))

    def run(self) -> Run | None:
        """The run; None where there is none."""
        told = self.told.read()
        if told is None:
            return None
        status = self.status.read() or Status()
        played = None if status.has_ended else is_played(self.path)
        if played is False:
            # One that ended since then said so before it let go of the lock.
            status = self.status.read() or Status()
            if status.phase == STARTING and abs(time.time() - status.updated) < STARTING_SECONDS:
                played = None
        return Run(told, status, self.tail, played)


@dataclass
class Follower:
    """The runs under ``directory``. A call of `newest` costs what is new since the last, and a look at each folder.

    problem  why the folder could not be read at that call; empty where it could
    """

    directory: Path
    problem: str = ""
    _folders: dict[str, Folder] = field(default_factory=dict[str, Folder])

    def newest(self) -> dict[str, Run]:
        """By federation, the run that is greatest in `Run.order`, read as far as time allows; see `server.tail`.

        One whose records begin anew, or were not read before, is read to its end.
        """
        found: dict[str, Run] = {}
        for run in self._runs():
            name = run.told.federation
            if name not in found or run.order > found[name].order:
                found[name] = run
        for run in found.values():
            if run.tail.read():
                # Shown in part, its counters would go up again from scrape to scrape: rises that never were.
                run.catch_up()
        return dict(sorted(found.items()))

    def catch_up(self) -> None:
        """Reads all that is there."""
        for run in self.newest().values():
            run.catch_up()

    def _runs(self) -> Iterator[Run]:
        try:
            with os.scandir(self.directory) as entries:
                paths = {entry.name: Path(entry.path) for entry in entries if entry.is_dir()}
            self.problem = ""
        except OSError as error:
            paths, self.problem = {}, error.strerror or str(error)
        self._folders = {name: self._folders.get(name) or Folder.at(path) for name, path in paths.items()}
        runs = (folder.run() for folder in self._folders.values())
        return (run for run in runs if run is not None)

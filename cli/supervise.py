"""``fedrebasin site run`` and ``run-all``: a site's processes, and those of several sites."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.errors import KitError
from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import Part, Parts, read_parts
from cli.interrupts import terminable
from cli.output import progress
from cli.processes import end_all, end_left, left_running
from cli.site_ports import check_ports

# A SuperNode that was killed is let in again after a minute, when its lease has ended: no hurry.
PAUSE_SECONDS = 5.0


class RunningSite:
    """A site's three processes."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.processes: dict[Part, subprocess.Popen[bytes]] = {}
        self.scratch: Path | None = None

    def start(self) -> None:
        """Starts all three; each waits for those that it needs by itself."""
        environment = dict(self.parts.environment())
        self.scratch = scratch_folder(self.parts.folder)
        for part in Part:
            command = self.parts.command(part, self.scratch)
            self.processes[part] = subprocess.Popen(command, env=environment)  # noqa: S603

    def clear(self) -> None:
        """Ends what a run that was killed left running, and removes its folders.

        Surely such a run's: who holds the site's folder is alone with it.
        """
        left = scratch_folders(self.parts.folder)
        end_left(self.parts.folder.state / "flower", left)
        for each in left:
            shutil.rmtree(each, ignore_errors=True)

    def ended(self) -> str:
        """Which process has ended, and how; empty while all run."""
        codes = {part: process.poll() for part, process in self.processes.items()}
        return ", ".join(f"{part} ended with code {code}" for part, code in codes.items() if code is not None)

    def end(self) -> None:
        """Ends all three, and the ClientApps, which are the SuperExec's children and carry the site's FLWR_HOME."""
        for process in self.processes.values():
            end_all(process, self.parts.folder.state / "flower")
        self.processes.clear()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def run(
    part: Annotated[
        Part | None, typer.Argument(help="One process, which is not started again; by default all.")
    ] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Each process runs on a host of its own, of its name: sidecar, supernode.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="The site's folder.")] = Path("site"),
) -> None:
    """Run the site, or one process of it, in the foreground. If a process of the site ends, the site starts again."""
    parts = read_parts(SiteFolder(folder), apart)
    if part is not None:
        # A unit's PrivateTmp goes when the unit ends, and a container's with the container.
        command = parts.command(part, scratch_folder(parts.folder) if part is Part.SIDECAR else Path())
        # What it becomes goes on holding the folder.
        os.set_inheritable(hold(parts.folder, fcntl.LOCK_SH), True)
        check_ports(parts, [part])
        os.execve(command[0], command, dict(parts.environment()))  # noqa: S606
    keep_running([RunningSite(parts)])


def run_all(
    folder: Annotated[Path, typer.Option(help="The folder that holds the sites' folders.")] = Path("sites"),
) -> None:
    """Run every site below a folder; end at once if there is none."""
    folders = sorted(path.parent for path in folder.glob("*/membership.toml"))
    keep_running([RunningSite(read_parts(SiteFolder(each))) for each in folders])


def keep_running(sites: list[RunningSite]) -> None:
    """Runs the sites until it is ended; each starts again when one of its processes has ended."""
    starts = dict.fromkeys(range(len(sites)), 0.0)
    with ExitStack() as held:
        for site in sites:
            held.callback(os.close, hold(site.parts.folder, fcntl.LOCK_EX))
            site.clear()
            check_ports(site.parts)
        _keep_running(sites, starts)


def hold(folder: SiteFolder, how: int) -> int:
    """The descriptor with which a site's folder is held until it is closed, for all of its processes or for one.

    Raises `KitError` where the site runs already: whoever ends its processes knows them by the folder, and would end
    those of the other too.
    """
    handle = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise KitError(
            f"{folder.path}: this site runs already. End that first: `systemctl stop 'fedrebasin-*'` as root, or "
            "Ctrl-C where `fedrebasin site run` was said"
        ) from None
    except OSError:
        # A network file system that knows no locks on folders.
        pass
    return handle


def runs(folder: SiteFolder) -> bool:
    """Whether processes of the site run, also such as a run that was killed left, which the next one ends."""
    try:
        os.close(hold(folder, fcntl.LOCK_EX))
    except KitError:
        return True
    return bool(left_running(folder.state / "flower", scratch_folders(folder)))


def _keep_running(sites: list[RunningSite], starts: dict[int, float]) -> None:
    try:
        with terminable():
            while sites:
                for number, site in enumerate(sites):
                    _keep_up(site, starts, number)
                time.sleep(0.5)
    except KeyboardInterrupt:
        progress.print("ended")
    finally:
        for site in sites:
            site.end()


def _keep_up(site: RunningSite, starts: dict[int, float], number: int) -> None:
    """Starts a site that does not run, not sooner than its pause is over."""
    if ended := site.ended():
        progress.print(f"{site.parts.membership.site}: {ended}; it is started again", highlight=False)
        site.end()
        starts[number] = time.monotonic() + PAUSE_SECONDS
    if not site.processes and time.monotonic() >= starts[number]:
        site.start()


def scratch_folder(folder: SiteFolder) -> Path:
    """A folder for what nginx writes. Started as root, nginx goes on as another user, who must be able to enter."""
    scratch = Path(tempfile.mkdtemp(prefix=_named_for(folder)))
    scratch.chmod(0o711)
    return scratch


def scratch_folders(folder: SiteFolder) -> list[Path]:
    """Those of this user that were made for the site in ``folder``."""
    found = Path(tempfile.gettempdir()).glob(f"{_named_for(folder)}*")
    return [path for path in found if path.lstat().st_uid == os.geteuid()]


def _named_for(folder: SiteFolder) -> str:
    """How names of the site's scratch folders begin: the site's folder by what it is held by, wherever it is seen."""
    held = folder.path.stat()
    return f"fedrebasin-{held.st_dev:x}-{held.st_ino:x}-"

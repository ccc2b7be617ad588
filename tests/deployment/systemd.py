"""A real systemd, of whose root nothing is left, for units to run in; the network is this machine's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import wait_until

BOOT = Path(__file__).resolve().parent / "boot.sh"
SYSTEMD = "/usr/lib/systemd/systemd"
APART = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--ipc", "--uts", "--cgroup")
MOST_SECONDS = 300.0


@dataclass(frozen=True)
class Systemd:
    """One that runs, by the number that its first process has here."""

    process_id: int

    def run(self, *command: str | Path, user: str = "root", place: str = "/", **environment: str) -> str:
        """What ``command`` says inside, as that user in that folder. Fails where it does."""
        entered = ("nsenter", "-t", str(self.process_id), "-m", "-p", "-i", "-u", "-C", f"--wdns={place}")
        become = ("setpriv", "--reuid", user, "--regid", user, "--init-groups")
        told = {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run(
            [*entered, *become, *command],
            env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", **told},
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def states(self) -> Mapping[str, str]:
        """Whether each of our units is active."""
        listed = self.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "fedrebasin-*")
        return {line.split()[0].removesuffix(".service"): line.split()[2] for line in listed.splitlines()}

    def process_of(self, unit: str) -> str:
        """The number of the unit's first process; 0 where none runs."""
        return self.run("systemctl", "show", "--value", "--property=MainPID", unit).strip()

    def sees(self, unit: str, folder: str) -> list[str]:
        """What the process of a unit finds in a folder."""
        return sorted(self.run("ls", "-A", f"/proc/{self.process_of(unit)}/root{folder}").split())

    def write(self, path: str, text: str) -> None:
        """Writes over a file, which stays its owner's."""
        self.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)

    def journal(self) -> str:
        """The end of what all units said."""
        command = ("nsenter", "-t", str(self.process_id), "-m", "-p", "-C", "journalctl", "--no-pager", "-n", "80")
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def systemd(scratch: Path, folder: Path, place: str) -> Generator[Systemd]:
    """One in which ``folder`` is seen as ``place``. Skips where none can be had: it takes root, and namespaces."""
    if os.geteuid() or not Path(SYSTEMD).is_file() or shutil.which(APART[0]) is None:
        pytest.skip("no root, or no systemd here")
    probe = subprocess.run([*APART, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr.decode()}")
    said = folder / "boot.log"
    with said.open("wb") as log:
        booted = subprocess.Popen([*APART, BOOT, scratch, folder, place], start_new_session=True, stderr=log)
    try:
        wait_until(lambda: booted.poll() is not None or is_there(booted.pid), 180, "systemd is there")
        if booted.poll() is not None:
            pytest.skip(f"systemd does not run here: {said.read_text()}")
        yield Systemd(first_process(booted.pid))
    finally:
        # Its child, the first process of its namespace, dies with it, and all others with that.
        booted.kill()
        booted.wait()


def first_process(unshared: int) -> int:
    """The child of `unshare`, which becomes systemd."""
    children = Path(f"/proc/{unshared}/task/{unshared}/children").read_text().split()
    return int(children[0]) if children else 0


def is_there(unshared: int) -> bool:
    """Whether systemd answers."""
    number = first_process(unshared)
    if not number or Path(f"/proc/{number}/exe").resolve() != Path(SYSTEMD).resolve():
        return False
    entered = ("nsenter", "-t", str(number), "-m", "-p", "-C", "systemctl", "is-system-running")
    return subprocess.run(entered, capture_output=True, text=True, check=False).stdout.strip() in (
        "running",
        "degraded",
    )

"""A site, or a federation's server, without containers: the systemd units of its processes."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from cli.direct import LOOPBACK
from cli.enrolment.errors import EnrolmentError, KitError
from cli.enrolment.files import private_folder, read_settings, write_public
from cli.enrolment.layout import ServerFolder, SiteFolder
from cli.enrolment.parts import Part
from cli.enrolment.settings import Federation, SiteSettings, host_of, port_of
from cli.enrolment.templates import DEPLOY, render
from cli.enrolment.users import unfit

SERVICES = ("superlink", "proxy", "superexec", "exporter")
# Below, a port is root's, or of whom it gives it to.
FIRST_FREE_PORT = 1024


def write_units(folder: SiteFolder, target: Path, command: Path, user: str) -> list[Path]:
    """Writes a site's units and returns them; ``command`` is `fedrebasin` itself.

    Raises `KitError` where ``user`` could not run them.
    """
    settings = read_settings(folder.check().settings, SiteSettings)
    path = folder.path.resolve()
    if why := unfit(user, path, (), command):
        raise KitError(why)
    values = {"folder": path, "command": command, "user": user, "memory": settings.memory.upper()}
    names = [f"fedrebasin-{part}.service" for part in Part]
    return [write_public(target / name, render(f"site/{name}.j2", **values)) for name in names]


@dataclass(frozen=True)
class ServerPlaces:
    """Where a server has its keys and the list of sites, what its processes remember, and the runs."""

    folder: ServerFolder
    state: Path
    runs: Path


def write_server_units(places: ServerPlaces, target: Path, command: Path, user: str) -> list[Path]:
    """Writes the units of a federation's server and returns them; makes the folders that they write to.

    Raises `EnrolmentError` where ``user`` could not run them, and where the SuperLink is not to be on this machine.
    """
    folder = places.folder.check()
    federation = read_settings(folder.settings, Federation)
    if host_of(federation.superlink) not in LOOPBACK:
        raise EnrolmentError(
            f"{folder.settings}: superlink is {federation.superlink!r}, expected 127.0.0.1 and a port: without "
            "containers nobody but this machine may reach it. Put that there, then `fedrebasin server renew server`"
        )
    path, state, runs = (each.resolve() for each in (folder.path, places.state, places.runs))
    if why := unfit(user, path, (state, runs, DEPLOY), command):
        raise EnrolmentError(why)
    _give([state, *(state / name for name in ("superlink", "superexec", "nginx"))], runs, pwd.getpwnam(user))
    values = {
        "folder": path,
        "state": state,
        "runs": runs,
        "bin": command.parent,
        "serve": DEPLOY / "proxy" / "serve.sh",
        "user": user,
        "superlink": federation.superlink,
        "port": port_of(federation.superlink),
        "low_port": int(port_of(federation.listen)) < FIRST_FREE_PORT,
    }
    names = [f"fedrebasin-server-{service}.service" for service in SERVICES]
    return [write_public(target / name, render(f"server/{name}.j2", **values)) for name in names]


def _give(private: list[Path], runs: Path, user: pwd.struct_passwd) -> None:
    """Makes the folders; those that are new are the user's, and what is not runs is theirs alone."""
    for path in (*private, runs):
        if not path.exists():
            path.mkdir(parents=True) if path == runs else private_folder(path)
            if os.geteuid() != user.pw_uid:
                os.chown(path, user.pw_uid, user.pw_gid)

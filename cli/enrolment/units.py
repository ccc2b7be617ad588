"""A site without containers: the systemd units of its three processes."""

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.enrolment.errors import KitError
from cli.enrolment.files import read_settings, write_public
from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import Part
from cli.enrolment.settings import SiteSettings
from cli.enrolment.templates import render

# systemd.syntax(7) and systemd.unit(5): what separates, quotes or expands in a unit.
MISREAD = re.compile(r"[\s%$\"'\\]")
MOST_SECONDS = 120.0
User = pwd.struct_passwd


def write_units(folder: SiteFolder, target: Path, command: Path, user: str) -> list[Path]:
    """Writes the units and returns them; ``command`` is `fedrebasin` itself.

    Raises `KitError` when there is no such user, the folder, which is its owner's alone, is not theirs, or the units
    could not come to the folder or the command.
    """
    settings = read_settings(folder.check().settings, SiteSettings)
    path = folder.path.resolve()
    owner = _user(user)
    _check_owner(path, owner)
    for each in (path, command, Path(sys.executable).resolve()):
        _check_reachable(each, owner)
    _check_runs(command, owner)
    values = {"folder": path, "command": command, "user": user, "memory": settings.memory.upper()}
    names = [f"fedrebasin-{part}.service" for part in Part]
    return [write_public(target / name, render(f"site/{name}.j2", **values)) for name in names]


def _user(name: str) -> User:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise KitError(f"--user {name}: no such user on this machine: `useradd --system {name}` makes one") from None


def _check_owner(path: Path, user: User) -> None:
    if (owner := path.stat().st_uid) != user.pw_uid:
        raise KitError(
            f"{path}: it belongs to the user {owner} and its keys to nobody else, so {user.pw_name} ({user.pw_uid}) "
            f"could not read them: `chown -R {user.pw_name}: {path}`"
        )


def _check_reachable(path: Path, user: User) -> None:
    if MISREAD.search(str(path)):
        raise KitError(
            f"{path}: in a unit systemd reads white space, quotes, '%', '$' and '\\' as something else: move it to a "
            "path without them, such as /srv/fedrebasin"
        )
    for folder in reversed(path.parents):
        if folder.exists() and not _can_enter(folder, user):
            raise KitError(
                f"{path}: the user {user.pw_name} cannot enter {folder}: move it to where they can, such as "
                f"/srv/fedrebasin{_or_open(folder, 'o+x')}"
            )


def _check_runs(command: Path, user: User) -> None:
    """Raises `KitError` where that user cannot run ``command``, as of a clone that was made under a strict umask."""
    if user.pw_uid == os.geteuid():
        # Who asks runs it just now.
        return
    try:
        done = _as(user, [command, "--help"])
        told = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    if told:
        # .venv/bin/fedrebasin, in the clone.
        clone = command.parents[min(2, len(command.parents) - 1)]
        raise KitError(
            f"{command}: the user {user.pw_name} cannot run it: {told}. Let them read all of the clone and its .venv, "
            f"such as by installing both in /srv/fedrebasin with `umask 022`{_or_open(clone, '-R o+rX')}"
        )


def _or_open(folder: Path, how: str) -> str:
    """The advice to open ``folder``, which nobody is given for a home."""
    homes = {Path(each.pw_dir) for each in pwd.getpwall()}
    return "" if folder in homes or folder == Path("/") else f", or `chmod {how} {folder}`"


def _can_enter(folder: Path, user: User) -> bool:
    if user.pw_uid == os.geteuid():
        return os.access(folder, os.X_OK)
    return _as(user, ["/usr/bin/test", "-x", folder]).returncode == 0


def _as(user: User, command: Sequence[str | Path]) -> "subprocess.CompletedProcess[bytes]":
    """Runs ``command`` as that user, in the environment of a unit, since modes alone do not tell what they may.

    Only root can have come this far for another user: the folder of a site is its owner's.
    """
    return subprocess.run(  # noqa: S603
        command,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=os.getgrouplist(user.pw_name, user.pw_gid),
        cwd="/",
        env={"HOME": user.pw_dir, "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=MOST_SECONDS,
        check=False,
    )

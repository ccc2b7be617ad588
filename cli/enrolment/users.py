"""Who may run systemd units: the folders must be theirs, and both these and the command within their reach."""

import getpass
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cli.errors import OptionError

# systemd.syntax(7) and systemd.unit(5): what separates, quotes or expands in a unit.
MISREAD = re.compile(r"[\s%$\"'\\]")
MOST_SECONDS = 120.0
User = pwd.struct_passwd


def runner(name: str) -> str:
    """The user that units are to have; by default who asks. Raises `OptionError` for root, whose rights they give up.

    nginx needs these where it is started as root, since it goes on as another user then.
    """
    found = name or getpass.getuser()
    if found == "root":
        raise OptionError(
            "--user root: expected a user of the federation's own, who owns its folder: nginx, started as root, needs "
            "rights that the units give up. `useradd --system fedrebasin` makes one; then `chown -R fedrebasin: FOLDER`"
        )
    return found


def unfit(name: str, folder: Path, others: Sequence[Path], command: Path) -> str:
    """Why units of that user could not run: an empty text where they can.

    There is such a user, ``folder``, which is its owner's alone, is theirs, and they can come to it, to the ``others``
    and to ``command``, `fedrebasin` itself, which they can run.
    """
    return next(filter(None, _complaints(name, folder, others, command)), "")


def _complaints(name: str, folder: Path, others: Sequence[Path], command: Path) -> Iterator[str]:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        yield f"--user {name}: no such user on this machine: `useradd --system {name}` makes one"
        return
    yield _not_theirs(folder, user)
    for each in (folder, *others, command, Path(sys.executable).resolve()):
        yield _out_of_reach(each, user)
    yield _cannot_run(command, user)


def _not_theirs(path: Path, user: User) -> str:
    if (owner := path.stat().st_uid) == user.pw_uid:
        return ""
    return (
        f"{path}: it belongs to the user {owner} and its keys to nobody else, so {user.pw_name} ({user.pw_uid}) "
        f"could not read them: `chown -R {user.pw_name}: {path}`"
    )


def _out_of_reach(path: Path, user: User) -> str:
    if MISREAD.search(str(path)):
        return (
            f"{path}: in a unit systemd reads white space, quotes, '%', '$' and '\\' as something else: move it to a "
            "path without them, such as /srv/fedrebasin"
        )
    for folder in reversed(path.parents):
        if folder.exists() and not _can_enter(folder, user):
            return (
                f"{path}: the user {user.pw_name} cannot enter {folder}: move it to where they can, such as "
                f"/srv/fedrebasin{_or_open(folder, 'o+x')}"
            )
    return ""


def _cannot_run(command: Path, user: User) -> str:
    """Why that user cannot run ``command``, as of a clone that was made under a strict umask."""
    if user.pw_uid == os.geteuid():
        # Who asks runs it just now.
        return ""
    try:
        done = _as(user, [command, "--help"])
        told = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    if not told:
        return ""
    # .venv/bin/fedrebasin, in the clone.
    clone = command.parents[min(2, len(command.parents) - 1)]
    return (
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

    Only root can have come this far for another user: the folder is its owner's.
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

"""``fedrebasin site run``: a site's processes, until one of them ends."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import Part, Parts, read_parts
from cli.interrupts import terminable
from cli.output import progress
from cli.superlink import end_all
from strategies.errors import OperatorError


class EndedError(OperatorError):
    """A process of the site has ended; whoever started it starts it again."""

    exit_code = 32


def run(
    part: Annotated[Part | None, typer.Argument(help="One process; by default all, which end together.")] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Each process on a host of its own, called as it is: sidecar, supernode.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="The site's folder.")] = Path("site"),
) -> None:
    """Run the site, or one process of it, in the foreground."""
    scratch = Path(tempfile.mkdtemp(prefix="fedrebasin-"))
    # Started as root, nginx goes on as another user, who must be able to enter.
    scratch.chmod(0o711)
    parts = read_parts(SiteFolder(folder), scratch, apart)
    if part is not None:
        command = parts.command(part)
        os.execve(command[0], command, dict(parts.environment()))  # noqa: S606
    try:
        with terminable():
            run_all(parts)
    except KeyboardInterrupt:
        progress.print("the site has ended")


def run_all(parts: Parts) -> None:
    """Runs all three until one ends, then ends the others. Raises `EndedError` that says which it was."""
    running: dict[Part, subprocess.Popen[bytes]] = {}
    try:
        for part in Part:
            running[part] = subprocess.Popen(parts.command(part), env=dict(parts.environment()))  # noqa: S603
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
        ended = next(part for part, process in running.items() if process.poll() is not None)
        raise EndedError(f"{ended} ended with code {running[ended].returncode}; see its last lines above")
    finally:
        for process in running.values():
            # ClientApps are the SuperExec's children: all of them carry the site's FLWR_HOME.
            end_all(process, parts.folder.state / "flower")

"""`fedrebasin demo` as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until

COMMAND = [str(Path(sys.executable).parent / "fedrebasin"), "demo"]


def start_demo(*arguments: str, runs: Path, place: Path | None = None) -> "subprocess.Popen[str]":
    """``fedrebasin demo arguments…``, of which `processes_naming` ``runs`` tells what it started."""
    environment = os.environ | {"STARTED_BY": str(runs)}
    command = [*COMMAND, "--runs", str(runs), "--name", "test", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=place, text=True, stdout=pipe, stderr=pipe)


def finish(process: "subprocess.Popen[str]", seconds: float = 240) -> tuple[str, str]:
    """What it printed, on both streams; a minute on an idle machine is four on a busy one."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # It ends what it started; killed at once it would leave that to the tests that follow.
        process.terminate()
        process.communicate(timeout=60)
        raise
    finally:
        process.kill()


def begun(process: "subprocess.Popen[str]", runs: Path) -> None:
    """Waits until its ServerApp has come to life, and Ray's processes with it; ends it where they do not."""
    try:
        wait_until((runs / "test" / "status.json").exists, 240, "the run begins", every=0.1)
    except AssertionError:
        process.terminate()
        pytest.fail(f"the run does not begin: {finish(process)}")


def processes_naming(text: str) -> list[str]:
    """Command lines and working directories of living processes that name ``text``."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            named = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in named and entry.name != str(os.getpid()):
            found.append(named.split(b"\0")[0].decode())
    return found

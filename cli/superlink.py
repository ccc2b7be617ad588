"""A local SuperLink with the simulation runtime, for as long as it is needed."""

import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from cli.flower import CONNECTION, FlowerError, SuperLink, executable, flower_environment
from cli.ports import free_port, why_not_free
from cli.processes import end_all

# Within which a SuperLink comes up: seconds where the machine is idle. One that ends meanwhile is told at once.
STARTS_SECONDS = 240.0
LONGEST_FOLDER = 28  # Ray adds up to 66 bytes, and `short_folder` 13


@contextmanager
def local_superlink(home: Path, port: int) -> Generator[SuperLink]:
    """A SuperLink on 127.0.0.1 that keeps its files in ``home``; it and all that it started are gone afterwards.

    Raises `FlowerError` when ``port`` is taken, or the SuperLink does not come up.
    """
    port = port or free_port()
    _check_free(port)
    # The simulation imports whatever `client` lies where its SuperLink was started: give it an empty folder.
    (home / "empty").mkdir(parents=True, exist_ok=True)
    address = {"address": f"127.0.0.1:{port}", "insecure": True}
    config = {"superlink": {"default": CONNECTION, CONNECTION: address}}
    (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    link = SuperLink(home, flower_environment(home))
    command = [
        executable("flower-superlink"),
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with link.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=home / "empty",
            env=dict(link.environment),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(link, process, port)
        yield link
    finally:
        if survivors := end_all(process, home):
            left = " ".join(map(str, survivors))
            raise FlowerError(f"processes {left} would not end: kill -9 {left}")


def short_folder() -> Path:
    """A new temporary folder with a short path: Ray keeps sockets there, and the kernel takes 107 bytes at most."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="frb-", dir=usual if len(usual) <= LONGEST_FOLDER else "/tmp"))  # noqa: S108


def _check_free(port: int) -> None:
    if why := why_not_free("127.0.0.1", port):
        raise FlowerError(f"port {port} on 127.0.0.1 is taken ({why}): choose another with --port")


def _wait_until_healthy(link: SuperLink, process: "subprocess.Popen[bytes]", port: int) -> None:
    ends = time.monotonic() + STARTS_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise FlowerError(f"flower-superlink ended with code {process.returncode}:\n{link.log_tail()}")
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise FlowerError(f"flower-superlink did not answer on port {port} within {STARTS_SECONDS:g} s:\n{link.log_tail()}")

"""A local SuperLink with the simulation runtime, for as long as it is needed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import tomli_w

from cli.direct import direct
from strategies.errors import OperatorError

packages = ("alignment", "models", "strategies", "client", "server")
TAIL_LINES = 30
CONNECTION = "fedrebasin"
ROOT = Path(__file__).resolve().parent.parent
LONGEST_ANSWER_SECONDS = 120
# A SuperLink that restarts answers nothing for a while, and the run goes on.
MOST_SILENCE_SECONDS = 300.0
# While a process starts a program the kernel shows no environment of it: of 100,000 looks at one that did nothing else,
# 300 to 600 saw none, for up to 4 ms.
LOOKS_THAT_FIND_NONE = 3
LONGEST_FOLDER = 28  # Ray adds up to 66 bytes, and `short_folder` 13


class FlowerError(OperatorError):
    """Flower could not be started, or the run failed."""

    exit_code = 15


@dataclass(frozen=True)
class SuperLink:
    """A running SuperLink: its folder, and the environment in which `flwr` finds it."""

    home: Path
    environment: Mapping[str, str]

    @property
    def log(self) -> Path:
        """What the SuperLink prints."""
        return self.home / "superlink.log"

    def submit(self, config: Mapping[str, object], n_sites: int | None) -> str:
        """Starts a run of this app and returns its id. Raises `FlowerError` with what `flwr run` said.

        ``n_sites`` is how many sites to simulate; None where there are real ones.
        """
        app = stage_app(self.home)
        run_config = self.home / "run-config.toml"
        run_config.write_bytes(tomli_w.dumps(dict(config)).encode())
        arguments = ["run", str(app), CONNECTION, "--run-config", str(run_config)]
        if n_sites is not None:
            arguments += ["--federation-config", f"num-supernodes={n_sites} client-resources-num-cpus=1"]
        said = self.flwr(*arguments)
        if not said.get("run-id"):
            raise FlowerError(f"flwr run did not start the run: {complaint(said)}")
        return str(said["run-id"])

    def status(self, run_id: str) -> str:
        """The run's status, such as ``running`` or ``finished:completed``."""
        runs = cast(list[dict[str, str]], self.flwr("list", CONNECTION, "--run-id", run_id).get("runs") or [])
        return runs[0]["status"] if runs else "unknown"

    def wait(self, run_id: str, patience_seconds: float = 10.0, over: Callable[[], bool] = lambda: False) -> str:
        """The status with which the run ended. Raises `FlowerError` when the SuperLink is silent for minutes.

        Each question starts a process of Flower's: every ``patience_seconds``, and sooner once it seems to be ``over``.
        """
        heard = time.monotonic()
        while True:
            try:
                status = self.status(run_id)
                heard = time.monotonic()
            except FlowerError:
                if time.monotonic() - heard > MOST_SILENCE_SECONDS:
                    raise
                status = "unknown"
            if status.startswith("finished"):
                return status
            asks = time.monotonic() + patience_seconds
            time.sleep(min(1.0, patience_seconds))
            while time.monotonic() < asks and not over():
                time.sleep(0.5)

    def stop(self, run_id: str) -> None:
        """Has the SuperLink end the run, if it goes on. Raises `FlowerError` where it does not."""
        said = self.flwr("stop", run_id, CONNECTION)
        if not said.get("success") and not self.status(run_id).startswith("finished"):
            raise FlowerError(f"flwr stop did not end the run: {complaint(said)}")

    def run_log(self, run_id: str) -> str:
        """What the run's ServerApp and ClientApps printed."""
        return self._run("log", run_id, CONNECTION, "--show").stdout

    def log_tail(self) -> str:
        """The last lines of the SuperLink's own log, less the requests that it served."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join([line for line in text.splitlines() if "uvicorn.access" not in line][-TAIL_LINES:])

    def flwr(self, *arguments: str) -> dict[str, object]:
        """What `flwr arguments…` answers, as JSON. Raises `FlowerError` when that is none."""
        done = self._run(*arguments, "--format", "json")
        try:
            return json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            said = f"{done.stdout.strip()} {done.stderr.strip()}"
            raise FlowerError(f"`flwr {arguments[0]}` failed: {said}") from None

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [executable("flwr"), *arguments]
        environment = dict(self.environment)
        try:
            return subprocess.run(  # noqa: S603
                command, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_ANSWER_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            said = f"`flwr {arguments[0]}` gave no answer within {LONGEST_ANSWER_SECONDS} s"
            raise FlowerError(said) from error


@contextmanager
def local_superlink(home: Path, port: int) -> Generator[SuperLink]:
    """A SuperLink on 127.0.0.1 that keeps its files in ``home``; it and all that it started are gone afterwards.

    Raises `FlowerError` when ``port`` is taken, or the SuperLink does not come up within a minute.
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


def end_all(process: "subprocess.Popen[bytes]", home: Path) -> list[int]:
    """Ends ``process`` and every process that it started, however far removed; returns those that live on.

    They are asked first. Ray's workers leave the SuperLink's session, and some do not heed SIGTERM; all of them inherit
    ``FLWR_HOME``. Its agents write their title over the environment that the kernel shows, and are known by the
    session that they share with others.
    """
    sessions: set[int] = set()
    for sign, seconds in ((signal.SIGTERM, 4.0), (signal.SIGKILL, 6.0)):
        ends = time.monotonic() + seconds
        looks = 0
        while time.monotonic() < ends:
            members = _members(process, home, sessions)
            looks = 0 if members else looks + 1
            if looks == LOOKS_THAT_FIND_NONE:
                return []
            for member in members:
                _signal(member, sign)
            time.sleep(0.2)
    return _members(process, home, sessions)


def _members(process: "subprocess.Popen[bytes]", home: Path, sessions: set[int]) -> list[int]:
    """The living processes: those of ``home``, others in their sessions, and ``process`` itself.

    ``sessions`` learns what sessions these are, but for this process's own. A dead ``process`` is reaped.
    """
    marked = {*processes_of(home), *_leader(process)}
    sessions |= {_session_of(number) for number in marked} - {0, os.getsid(0)}
    beside = {number for entry in _entries() if _session_of(number := int(entry.name)) in sessions}
    return sorted(marked | beside)


def processes_of(home: Path) -> list[int]:
    """The living processes whose environment names ``home`` as Flower's; none on systems without ``/proc``."""
    marker = f"FLWR_HOME={home}".encode()
    return [int(entry.name) for entry in _entries() if marker in _environment_of(entry).split(b"\0")]


def stage_app(home: Path) -> Path:
    """A copy of the app alone: Flower wants a plain folder name, and must not pick up runs, tests or secrets."""
    if not (ROOT / "pyproject.toml").is_file():
        raise FlowerError(
            f"no pyproject.toml in {ROOT}: run from a clone of the project, installed with `make install`"
        )
    app = home / "app"
    app.mkdir(exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", app)
    for package in packages:
        shutil.copytree(ROOT / package, app / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return app


def flower_environment(home: Path, *hosts: str) -> dict[str, str]:
    """This process's environment for Flower's commands: their files below ``home``, and nobody asked or told.

    ``hosts`` are dialled as the loopback is, through no HTTP proxy.
    """
    environment = os.environ | direct(*hosts)
    return environment | {
        # Functions that the caller's options name lie where the caller is, and the sites must find them too. Ours come
        # first: a folder named `client` there must not be taken for the app's.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), str(Path.cwd()), os.environ.get("PYTHONPATH")))),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "HF_HUB_OFFLINE": "1",
        # Two multi-threaded trainings on few cores slow each other tenfold.
        "OMP_NUM_THREADS": "1",
    }


def executable(name: str) -> str:
    """A command of the environment that this runs in, whether or not it is activated."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def complaint(said: Mapping[str, object]) -> str:
    """What `flwr` says of what went wrong, in one line."""
    return " ".join(str(said.get("error-message") or said).split())


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FlowerError(
                f"port {port} on 127.0.0.1 is taken ({error.strerror}): choose another with --port"
            ) from None


def _wait_until_healthy(link: SuperLink, process: "subprocess.Popen[bytes]", port: int) -> None:
    ends = time.monotonic() + 60
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise FlowerError(f"flower-superlink ended with code {process.returncode}:\n{link.log_tail()}")
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise FlowerError(f"flower-superlink did not answer on port {port} within 60 s:\n{link.log_tail()}")


def _entries() -> list[Path]:
    """Those of all other processes in ``/proc``."""
    return [entry for entry in Path("/proc").glob("[0-9]*") if entry.name != str(os.getpid())]


def _session_of(process_id: int) -> int:
    """The session of a living process; 0 of one that is dead, whose parent may not have asked about it yet."""
    try:
        state, session = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()[0:4:3]
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else int(session)


def _environment_of(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        # Gone since it was listed, or another user's.
        return b""


def _leader(process: "subprocess.Popen[bytes]") -> list[int]:
    return [process.pid] if process.poll() is None else []


def _signal(process_id: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process_id, sign)

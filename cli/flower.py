"""Flower's command `flwr`: what it is asked of a SuperLink, and the environment that it needs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import tomli_w

from cli.direct import direct
from strategies.errors import OperatorError

packages = ("alignment", "models", "strategies", "client", "server")
TAIL_LINES = 30
# What Flower says where nobody answers, which speaks of a file that is ours.
UNREACHED = "SuperLink is unavailable"
START_IT = (
    "Is it running? Start it, or give it a minute to come up, and say the same again; its address is `superlink` in "
    "federation.toml"
)
CONNECTION = "fedrebasin"
ROOT = Path(__file__).resolve().parent.parent
LONGEST_ANSWER_SECONDS = 120
# A SuperLink that restarts answers nothing for a while, and the run goes on.
MOST_SILENCE_SECONDS = 300.0


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
        # Ray gives its node 30 seconds to come up, which on a busy machine are too few.
        "RAY_raylet_start_wait_time_s": "120",
        "HF_HUB_OFFLINE": "1",
        # Two multi-threaded trainings on few cores slow each other tenfold.
        "OMP_NUM_THREADS": "1",
    }


def executable(name: str) -> str:
    """A command of the environment that this runs in, whether or not it is activated."""
    return str(Path(sys.executable).parent / name)


def complaint(said: Mapping[str, object]) -> str:
    """What `flwr` says of what went wrong, in one line; and what to do where it reached nobody."""
    told = " ".join(str(said.get("error-message") or said).split())
    return f"{told} {START_IT}" if UNREACHED in told else told

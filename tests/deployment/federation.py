"""A whole deployment on loopback, of real processes: SuperLink, SuperExec, nginx, and sites with their sidecars."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import tomli_w
from typer.testing import CliRunner

from cli.enrolment.layout import ServerFolder, SiteFolder
from cli.flower import flower_environment
from cli.main import app
from cli.ports import free_port
from cli.preflight.finding import Subject
from cli.preflight.network import identity
from cli.processes import end_all, processes_of
from cli.superlink import short_folder
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.files import write_text
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
RUN: dict[str, bool | int | float | str] = {
    "model": "mlp",
    "width": 32,
    "depth": 2,
    "epochs": 2,
    "later-epochs": 1,
    "rounds": 2,
    "probe-points": 3,
    "round-deadline-seconds": 240.0,
    "join-deadline-seconds": 240.0,
}
# As little work as a round can be: one trip to train, one to evaluate.
SHORT: dict[str, object] = {"align-at": "server", "probe-points": 0, "epochs": 1}
RUN_SECONDS = 600.0
Document = dict[str, Any]


def fedrebasin(*arguments: str | Path) -> Document:
    """What ``fedrebasin arguments… --format json`` answers, in this process. Raises what it raises."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"], catch_exceptions=False)
    return json.loads(done.stdout) | {"exit-code": done.exit_code}


@dataclass
class Process:
    """One service: how it is started, its log, and the folder by which all that it starts is known."""

    command: list[str]
    home: Path
    environment: Mapping[str, str]
    running: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.home / "log"

    def start(self) -> None:
        """Starts it, in an empty folder of its own."""
        (self.home / "empty").mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                cwd=self.home / "empty",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int:
        """The code with which it ends by itself; fails when it has not within ``seconds``."""
        assert self.running is not None
        return self.running.wait(timeout=seconds)

    def kill(self) -> None:
        """kill -9 of it and of all that it started."""
        assert self.running is not None
        # nginx overwrites its environment, and is known by the session alone; Flower's processes leave the session.
        self.signal(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()

    def signal(self, number: int) -> None:
        """Sends a signal to all that it started."""
        for process_id in processes_of(Path(self.environment["FLWR_HOME"])):
            with suppress(ProcessLookupError):
                os.kill(process_id, number)

    def end(self) -> None:
        """Ends it and all that it started."""
        if self.running is not None:
            assert not end_all(self.running, Path(self.environment["FLWR_HOME"]))
            with suppress(ProcessLookupError):
                os.killpg(self.running.pid, signal.SIGKILL)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@dataclass
class Deployment:
    """A server on loopback, and sites that joined it."""

    root: Path
    superlink: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    proxy: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    services: dict[str, Process] = field(default_factory=dict[str, Process])
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    setup_seconds: float = 0.0
    """How long this machine took to bring up server and sites: what a deadline in a test goes by."""

    @property
    def server(self) -> ServerFolder:
        """The server's folder."""
        return ServerFolder(self.root / "server")

    @property
    def runs(self) -> Path:
        """Where the ServerApp keeps runs."""
        return self.root / "runs"

    def site(self, name: str) -> SiteFolder:
        """A site's folder."""
        return SiteFolder(self.root / name)

    def make(self, run: Mapping[str, bool | int | float | str]) -> None:
        """Makes the server's folder and says what runs will be."""
        self.config = run
        config = self.root / "run.toml"
        config.write_text(tomli_w.dumps(dict(run)))
        addresses = ("--proxy", self.proxy, "--superlink", self.superlink, "--listen", self.proxy)
        fedrebasin("server", "init", *addresses, "--run-config", config, "--folder", self.server.path)
        superlink, port = self.server.superlink, self.superlink.rpartition(":")[2]
        self.add(
            "superlink",
            [
                *(str(BIN / "flower-superlink"), "--host", "127.0.0.1", "--port", port),
                *("--ssl-ca-certfile", str(superlink / "ca.crt"), "--ssl-certfile", str(superlink / "superlink.crt")),
                *("--ssl-keyfile", str(superlink / "superlink.key"), "--enable-supernode-auth"),
                *("--isolation", "process", "--superexec-auth-secret-file", str(superlink / "superexec.secret")),
                *("--database", str(self.root / "state.db")),
            ],
        )
        superexec = self.server.superexec
        self.add(
            "superexec",
            [
                *(str(BIN / "flower-superexec"), "--runtime-api-address", self.superlink),
                *("--root-certificates", str(superexec / "ca.crt")),
                *("--superexec-auth-secret-file", str(superexec / "superexec.secret")),
            ],
        )
        serve = str(ROOT / "deploy" / "proxy" / "serve.sh")
        self.add("proxy", [serve, str(self.server.proxy), str(self.root / "proxy-scratch")])

    def start(self, name: str) -> None:
        """Starts a service and, where it listens, waits until it takes connections."""
        self.services[name].start()
        listens = {"superlink": self.superlink, "proxy": self.proxy}.get(name)
        if listens is not None:
            host, _, port = listens.rpartition(":")
            wait_until(lambda: is_open(host, int(port)), 240, lambda: f"{name} listens:\n{self.services[name].tail()}")

    def start_server(self) -> None:
        """Starts SuperLink, proxy and SuperExec."""
        for name in ("superlink", "proxy", "superexec"):
            self.start(name)

    def enrol(self, name: str, **settings: object) -> SiteFolder:
        """Has a site join as a real one does; ``settings`` go into its site.toml."""
        site = self.site(name)
        asked = fedrebasin("site", "request", name, "--folder", site.path)
        kit = self.root / f"{name}.kit"
        told = fedrebasin(
            *("server", "approve", asked["request"], "--fingerprint", asked["fingerprint"]),
            *("--kit", kit, "--folder", self.server.path),
        )
        fedrebasin("site", "install", kit, "--fingerprint", told["fingerprint"], "--folder", site.path)
        ports: dict[str, object] = {"sidecar-port": free_port(), "runtime-port": free_port(), "threads": 1}
        write_text(site.settings, tomli_w.dumps({"data": "digits", "least-free-gigabytes": 0.1, **ports, **settings}))
        command = [str(BIN / "fedrebasin"), "site", "run", "--folder", str(site.path.resolve())]
        self.add(name, command, site.state.resolve() / "flower")
        if self.services["proxy"].running is not None:
            # The proxy looks once a second who was let in.
            wait_until(lambda: self.answer(site) == 200, 60, f"the proxy lets {name} in")
        return site

    def answer(self, site: SiteFolder) -> int:
        """What the proxy answers to the site; 0 where it breaks the connection off."""
        try:
            with httpx.Client(verify=identity(Subject(site)), trust_env=False) as client:
                return client.get(f"https://{self.proxy}/health").status_code
        except httpx.TransportError:
            return 0

    def online(self) -> list[str]:
        """The names of the sites that are there."""
        sites = fedrebasin("server", "list", "--folder", self.server.path)["sites"]
        return sorted(each["name"] for each in sites if each["there"] == "online")

    def run(self, name: str, **changes: object) -> Process:
        """``fedrebasin server run`` as a process of its own, that ends with the run; ``changes`` to what was said."""
        config = self.root / f"{name}.toml"
        config.write_text(tomli_w.dumps({**self.config, "run": name, **changes}))
        folders = ("--runs", str(self.runs), "--folder", str(self.server.operator))
        self.add(f"run-{name}", [str(BIN / "fedrebasin"), "server", "run", str(config), *folders])
        self.start(f"run-{name}")
        return self.services[f"run-{name}"]

    def store(self, name: str) -> RunStore:
        """What a run left."""
        return RunStore(self.runs / name)

    def logs(self) -> str:
        """The end of every service's log, for a failed assertion to show."""
        return "\n".join(f"=== {name}\n{service.tail()}" for name, service in self.services.items())

    def add(self, name: str, command: list[str], home: Path | None = None) -> None:
        """Names a service; ``home`` is what its FLWR_HOME is."""
        home = home or self.root / "flower" / name
        environment = flower_environment(home) | {"FLWR_HOME": str(home)}
        self.services[name] = Process(command, self.root / "logs" / name, environment)


def is_open(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def deployment(run: Mapping[str, bool | int | float | str] = RUN) -> Generator[Deployment]:
    """A deployment whose folder and processes are gone afterwards. Nothing runs yet."""
    root = short_folder()
    root.chmod(0o711)  # nginx, started as root, writes as another user
    made = Deployment(root)
    try:
        made.make(run)
        yield made
    finally:
        for service in reversed(list(made.services.values())):
            service.end()
        shutil.rmtree(root, ignore_errors=True)


def finish(made: Deployment, run: Process, name: str) -> list[RoundRecord]:
    """Waits for the end of a run; its rounds."""
    assert run.wait(RUN_SECONDS) == 0, f"{run.tail()}\n{made.logs()}"
    return read_rounds(made.store(name))


def reach(store: RunStore, round_number: int, phase: str, made: Deployment) -> None:
    """Waits until the run is in that phase."""

    def there() -> bool:
        now = store.read_json("status.json") or {}
        return (now.get("round"), now.get("phase")) == (round_number, phase)

    wait_until(there, RUN_SECONDS, lambda: f"round {round_number} is in {phase}\n{made.logs()}")

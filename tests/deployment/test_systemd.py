"""A server and a site without containers, under a real systemd, by the units that we write."""

import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from cli.ports import free_port
from tests.deployment.federation import BIN, ROOT, RUN, SHORT, is_open
from tests.deployment.systemd import Systemd, systemd
from tests.waiting import wait_until

pytestmark = pytest.mark.long
PLACE = "/srv/fedrebasin"
UNITS = "/etc/systemd/system"
SERVER = [f"fedrebasin-server-{name}" for name in ("exporter", "proxy", "superexec", "superlink")]
SITE = [f"fedrebasin-{name}" for name in ("sidecar", "superexec", "supernode")]


class Machine:
    """A machine with a user for the server and one for a site, each with a folder of its own."""

    def __init__(self, running: Systemd) -> None:
        self.systemd = running
        self.proxy, self.superlink = (f"127.0.0.1:{free_port()}" for _ in range(2))

    def say(self, user: str, *arguments: str, as_root: bool = False) -> dict[str, Any]:
        """What `fedrebasin arguments…` answers in that user's folder."""
        command = (str(BIN / "fedrebasin"), *arguments, "--format", "json")
        told = self.systemd.run(
            *command, user="root" if as_root else user, place=f"{PLACE}/{user}", PYTHONPATH=str(ROOT)
        )
        return json.loads(told)

    def hand(self, path: str, giver: str, taker: str) -> str:
        """Carries a file or folder from one user to the other; returns its name."""
        name = Path(path).name
        self.systemd.run("cp", "-r", f"{PLACE}/{giver}/{path}", f"{PLACE}/{taker}/{name}")
        self.systemd.run("chown", "-R", f"{taker}:", f"{PLACE}/{taker}/{name}")
        return name

    def start(self, units: list[str]) -> None:
        """Starts units that were just written, and waits until all are active."""
        self.systemd.run("systemctl", "daemon-reload")
        self.systemd.run("systemctl", "start", *units)
        self.wait(lambda: all(self.systemd.states().get(unit) == "active" for unit in units), f"{units} are active")

    def wait(self, there: Callable[[], object], what: str) -> None:
        """Waits for what a busy machine takes long for."""
        wait_until(there, 240, lambda: f"{what}\n{self.systemd.states()}\n{self.systemd.journal()}", every=1.0)

    def is_online(self) -> bool:
        """Whether the site is."""
        return [each["there"] for each in self.say("server", "server", "list")["sites"]] == ["online"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Machine]:
    """One on which nothing runs yet."""
    folder = tmp_path_factory.mktemp("machine")
    with systemd(tmp_path_factory.mktemp("root"), folder, PLACE) as running:
        # What is ours may lie in a home, which is closed to others.
        for path in {*Path(sys.executable).resolve().parents, *BIN.parents, *ROOT.parents, Path(PLACE)}:
            running.run("chmod", "o+x", path)
        for user in ("server", "site"):
            running.run("useradd", "--system", user)
            running.run("install", "-d", "-o", user, "-g", user, f"{PLACE}/{user}")
        (folder / "server" / "run.toml").write_text(tomli_w.dumps({**RUN, **SHORT, "rounds": 1, "min-sites": 1}))
        (folder / "server" / "run.toml").chmod(0o644)
        yield Machine(running)


def test_a_server_and_a_site_run_as_units_of_systemd_and_each_sees_its_own_keys_alone(machine: Machine) -> None:
    addresses = ("--proxy", machine.proxy, "--listen", machine.proxy, "--superlink", machine.superlink)
    machine.say("server", "server", "init", *addresses, "--run-config", "run.toml")
    machine.say("server", "server", "units", UNITS, "--user", "server", as_root=True)
    machine.start(SERVER)
    for address in (machine.superlink, machine.proxy):
        machine.wait(lambda at=address: is_open("127.0.0.1", int(at.rpartition(":")[2])), f"{address} listens")

    asked = machine.say("site", "site", "request", "ward")
    request = machine.hand(asked["request"], "site", "server")
    kit = machine.say("server", "server", "approve", request, "--fingerprint", asked["fingerprint"])
    machine.say(
        "site", "site", "install", machine.hand("ward.kit", "server", "site"), "--fingerprint", kit["fingerprint"]
    )
    settings = {"data": "digits", "partition": 0, "partitions": 2, "threads": 1, "least-free-gigabytes": 0.1}
    ports = {"sidecar-port": free_port(), "runtime-port": free_port()}
    machine.systemd.write(f"{PLACE}/site/site/site.toml", tomli_w.dumps(settings | ports))
    machine.say("site", "site", "configure", "--systemd", UNITS, "--user", "site", as_root=True)
    machine.start(SITE)
    machine.wait(machine.is_online, "the site is online")

    assert machine.say("server", "server", "run", "run.toml", "--name", "first")["status"] == "finished:completed"

    folder = f"{PLACE}/server"
    for name, own in (
        ("proxy", "proxy"),
        ("superexec", "superexec"),
        ("superlink", "superlink"),
        ("exporter", "issued"),
    ):
        assert machine.systemd.sees(f"fedrebasin-server-{name}", f"{folder}/federation") == [own]
    # A run's code has neither the SuperLink's database nor another process's files.
    assert machine.systemd.sees("fedrebasin-server-superexec", f"{folder}/state") == ["superexec"]
    assert set(machine.systemd.states().values()) == {"active"}


def test_systemd_starts_again_what_was_killed(machine: Machine) -> None:
    before = {unit: machine.systemd.process_of(unit) for unit in (*SERVER, *SITE)}
    machine.systemd.run("systemctl", "kill", "--signal=KILL", *before)

    def back() -> bool:
        return all(machine.systemd.process_of(unit) not in ("0", old) for unit, old in before.items())

    machine.wait(back, "all run again")
    machine.wait(machine.is_online, "the site is online again")

"""Where the environment names an HTTP proxy, as hospitals do, what is inside is dialled without it all the same."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass

import httpx
import pytest
import yaml

from cli.direct import dialled_directly
from cli.enrolment.layout import ServerFolder
from cli.enrolment.parts import read_parts
from cli.enrolment.settings import Federation
from cli.enrolment.superlink import reach_superlink
from cli.flower import CONNECTION, flower_environment
from cli.superlink import local_superlink, short_folder
from tests.test_preflight import member

ROOT = Path(__file__).resolve().parent.parent
# Nobody listens there, so that whoever goes by it fails.
PROXY = "http://127.0.0.1:9"
DIAL = "import httpx, sys; print(httpx.get(sys.argv[1]).text)"


class Answer(BaseHTTPRequestHandler):
    """Says one word."""

    def do_GET(self) -> None:
        """Answers."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing."""


@pytest.fixture
def address() -> Generator[str]:
    """Of a server on the loopback."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(autouse=True)
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with proxies for all, but for one host."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, PROXY)
        monkeypatch.setenv(name.upper(), PROXY)
    monkeypatch.setenv("no_proxy", "intranet.example")
    monkeypatch.delenv("NO_PROXY", raising=False)


def dialled(environment: Mapping[str, str], address: str) -> str:
    """What a process of that environment is answered by a client that goes by it, as Flower's do."""
    done = subprocess.run(
        [sys.executable, "-c", DIAL, address], env=dict(environment), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def bypassed(environment: Mapping[str, str], host: str) -> bool:
    """Whether ``host`` is dialled directly, by either spelling of the variable."""
    with pytest.MonkeyPatch.context() as patched:
        found: list[bool] = []
        for name in ("no_proxy", "NO_PROXY"):
            patched.delenv("no_proxy", raising=False)
            patched.delenv("NO_PROXY", raising=False)
            patched.setenv(name, environment[name])
            found.append(bool(proxy_bypass(host)))
    return all(found)


def test_without_more_a_client_would_go_through_the_proxy(address: str) -> None:
    # Else the tests below would pass for an environment that names none.
    assert "Connection refused" in dialled(os.environ, address)


def test_flowers_commands_and_a_sites_parts_dial_the_loopback_directly(tmp_path: Path, address: str) -> None:
    assert dialled(flower_environment(tmp_path), address) == "here"
    assert dialled(read_parts(member(tmp_path, "seed")).environment(), address) == "here"


def test_so_they_do_where_the_environment_names_a_socks_proxy(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY.replace("http", "socks5"))
    assert dialled(flower_environment(tmp_path), address) == "here"
    assert dialled(read_parts(member(tmp_path, "seed")).environment(), address) == "here"


def test_parts_on_hosts_of_their_own_dial_each_other_directly_and_all_else_as_before(tmp_path: Path) -> None:
    environment = read_parts(member(tmp_path, "seed"), apart=True).environment()
    assert all(bypassed(environment, host) for host in ("sidecar", "supernode", "intranet.example"))
    assert not bypassed(environment, "data.example")


def test_the_operators_commands_dial_the_superlink_directly(tmp_path: Path) -> None:
    federation = Federation(proxy="fl.example.org:8443", superlink="superlink.example:8000", image="x")
    with reach_superlink(ServerFolder(tmp_path), federation) as link:
        assert bypassed(link.environment, "superlink.example")
        assert not bypassed(link.environment, "fl.example.org")


def test_a_superlink_of_a_demo_comes_up_and_answers() -> None:
    home = short_folder()
    try:
        with local_superlink(home, 0) as link:
            assert link.flwr("list", CONNECTION)["runs"] == []
    finally:
        shutil.rmtree(home)


def test_what_is_dialled_directly_within_a_command_is_so_no_longer_after_it(address: str) -> None:
    before = dict(os.environ)
    with dialled_directly("127.0.0.1"):
        assert httpx.get(address).text == "here"
    assert dict(os.environ) == before


def in_compose(path: Path) -> dict[str, Any]:
    """The services of a file of Compose's."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))["services"]


def test_containers_dial_each_other_directly_though_the_engine_gives_them_the_machines_proxy() -> None:
    services = in_compose(ROOT / "compose.yml")
    dial = {name for name, each in services.items() if each.get("networks")} - {"proxy", "prometheus"}
    assert {"superlink", "superexec", "enrolment", "run", "rehearsal", "site-us", "exporter", "grafana"} <= dial
    for name in dial:
        environment = services[name]["environment"]
        hosts = ("localhost", "127.0.0.1", "superlink", "proxy", "exporter", "prometheus")
        assert all(bypassed(environment, host) for host in hosts), name
    # Whatever stands in NO_PROXY, busybox goes by the other variable alone.
    test = services["grafana"]["healthcheck"]["test"]
    assert test[test.index("wget") - 3 : test.index("wget")] == ["env", "-u", "http_proxy"]
    for name, each in in_compose(ROOT / "deploy" / "site" / "compose.yml.j2").items():
        assert all(bypassed(each["environment"], host) for host in ("localhost", "sidecar", "supernode")), name

"""Every line of ``fedrebasin site check`` passes for a good site, and has a site for which it fails."""

import json
import os
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from cli.enrolment.authority import new_authority, pem, read_authority
from cli.enrolment.keys import read_private
from cli.enrolment.layout import SiteFolder
from cli.enrolment.server import open_server
from cli.enrolment.superlink import nodes, reach_superlink, unregister_node
from cli.main import app
from cli.ports import free_port
from cli.preflight import network
from cli.preflight.command import CHECKS, FAILED, NO_KIT, PASSED, perform
from cli.preflight.finding import Finding, Subject
from tests.deployment.federation import BIN, Deployment, Process, fedrebasin, is_open
from tests.deployment.samples import write_images, write_ward
from tests.waiting import wait_until

Break = Callable[[Deployment, SiteFolder], None]


def change(path: Path, **changes: object) -> None:
    """Changes values in a TOML file."""
    content = tomllib.loads(path.read_text()) | {key.replace("_", "-"): value for key, value in changes.items()}
    path.write_text(tomli_w.dumps(content))


def change_run(site: SiteFolder, **changes: object) -> None:
    """Changes what the membership says of runs."""
    run = tomllib.loads(site.membership.read_text())["run"]
    change(site.membership, run=run | {key.replace("_", "-"): value for key, value in changes.items()})


def signed_anew(server: Deployment, site: SiteFolder, name: str = "site-us", days: float = 365) -> None:
    """Gives the site another certificate for its key."""
    key = read_private(site.key).public_key()
    site.certificate.write_bytes(pem(read_authority(server.server.path).sign_site(key, name, days)))


def unreadable(server: Deployment, site: SiteFolder) -> None:
    site.membership.write_text("site =")


def foreign(server: Deployment, site: SiteFolder) -> None:
    key = read_private(site.key).public_key()
    site.certificate.write_bytes(pem(new_authority("fedrebasin authority").sign_site(key, "site-us", 365)))


def another_key(server: Deployment, site: SiteFolder) -> None:
    shutil.copy(server.site("site-eu").certificate, site.certificate)


def filled_with(value: str) -> Break:
    """Samples that hold nothing but this value."""

    def spoil(server: Deployment, site: SiteFolder) -> None:
        site.code.mkdir(exist_ok=True)
        name = f"filled_{value.replace('.', '_')}"
        code = (
            f"import torch\ndef all():\n    return torch.full((50, 1, 8, 8), float('{value}')), torch.arange(50) % 10\n"
        )
        (site.code / f"{name}.py").write_text(code)
        change(site.settings, data=f"{name}:all")

    return spoil


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


BREAKS: list[tuple[str, str, Break]] = [
    ("configuration", "nearest is 'data'", lambda _, site: change(site.settings, dta="x")),
    ("configuration", "not TOML", unreadable),
    ("configuration", "there is no such setting", lambda _, site: change_run(site, epoch=3)),
    ("configuration", "data is empty", lambda _, site: change(site.settings, data="")),
    ("certificate chain", "", foreign),
    ("certificate chain", "", lambda server, site: signed_anew(server, site, days=-1)),
    ("certificate chain", "another key", another_key),
    ("certificate name", "urn:fedrebasin:site:site-eu", lambda server, site: signed_anew(server, site, "site-eu")),
    ("certificate days left", "3.0 days left", lambda server, site: signed_anew(server, site, days=3)),
    ("versions", "0.0.1 at the server", lambda _, site: change(site.membership, version="0.0.1")),
    ("versions", "flwr is", lambda _, site: change(site.membership, flower="1.0.0")),
    ("disk", "GB free", lambda _, site: change(site.settings, least_free_gigabytes=1e9)),
    ("ports", "sidecar-port", lambda server, site: change(site.settings, sidecar_port=port_of(server.proxy))),
    ("proxy reachable", "refused", lambda _, site: change(site.membership, proxy=f"127.0.0.1:{free_port()}")),
    ("proxy reachable", "", foreign),
    ("key enrolled", "", lambda _, site: change(site.membership, node_id="12345")),
    ("key enrolled", "answers 40", lambda server, site: signed_anew(server, site, "nobody")),
    ("architecture", "at the server", lambda _, site: change_run(site, width=33)),
    ("data", "no such file", lambda _, site: change(site.settings, data="/nowhere")),
    ("data", "least is 1000000", lambda _, site: change(site.membership, least_samples=1000000)),
    ("data", "shape", lambda _, site: change_run(site, shape="3x8x8")),
    ("training step", "memory is '9m'", lambda _, site: change(site.settings, memory="9m")),
    ("data", "sample 0 holds NaN", filled_with("nan")),
    ("training step", "NaN", filled_with("3e38")),
    ("upload", "a round has", lambda _, site: change_run(site, round_deadline_seconds=1e-9)),
]


@pytest.fixture
def site(server: Deployment, tmp_path: Path) -> SiteFolder:
    """A copy of a good site, to be broken."""
    shutil.copytree(server.site("site-us").path, tmp_path / "site")
    return SiteFolder(tmp_path / "site")


def find(name: str, site: SiteFolder) -> Finding:
    """How the check ``name`` goes."""
    (check,) = [each for each in CHECKS if each.name == name]
    return perform(check, Subject(site))


@pytest.mark.parametrize("name", [each.name for each in CHECKS])
def test_a_good_site_passes(server: Deployment, site: SiteFolder, name: str) -> None:
    assert find(name, site).problem == ""


@pytest.mark.parametrize(("name", "told", "spoil"), BREAKS)
def test_a_broken_site_fails(
    server: Deployment, site: SiteFolder, monkeypatch: pytest.MonkeyPatch, name: str, told: str, spoil: Break
) -> None:
    monkeypatch.syspath_prepend(str(site.code))
    spoil(server, site)
    found = find(name, site)
    assert found.problem
    assert told in found.problem
    assert found.fix


def test_a_key_that_the_superlink_forgot_is_not_enrolled(server: Deployment, tmp_path: Path) -> None:
    forgotten = server.enrol("forgotten")
    assert find("key enrolled", forgotten).problem == ""
    folder, federation, _ = open_server(server.server.path)
    with reach_superlink(folder, federation) as link:
        unregister_node(link, Subject(forgotten).membership.node_id)
        assert Subject(forgotten).membership.node_id not in nodes(link)
    assert "does not know the key" in find("key enrolled", forgotten).problem
    assert find("proxy reachable", forgotten).problem == ""


def test_an_http_proxy_of_the_environment_is_not_asked(
    server: Deployment, site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert find("key enrolled", site).problem == ""


@pytest.mark.parametrize("seconds", ["+30", "-30"])
def test_a_clock_that_is_off_is_told(server: Deployment, site: SiteFolder, seconds: str) -> None:
    assert f"this machine is {seconds[0]}" in problems_at(f"{seconds}s", site)["clock"]


def test_a_certificate_that_is_not_good_yet_is_a_matter_of_the_clock(server: Deployment, site: SiteFolder) -> None:
    said = problems_at("-400d", site)
    for check in ("certificate chain", "certificate days left"):
        assert "which is not yet by this machine's clock" in said[check]


def problems_at(shift: str, site: SiteFolder) -> dict[str, str]:
    """What ``site check`` finds where the clock is off by ``shift``."""
    command = ["faketime", "-f", shift, BIN / "fedrebasin", "site", "check"]
    done = subprocess.run(
        [*command, "--folder", site.path, "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=360,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == FAILED
    return {each["check"]: each["problem"] for each in json.loads(done.stdout)["checks"]}


def test_a_proxy_that_passes_more_than_the_fleet_api_is_told(server: Deployment, site: SiteFolder) -> None:
    with open_proxy(server) as address:
        change(site.membership, proxy=address)
        assert find("proxy reachable", site).problem == ""
        assert "through the proxy" in find("control and runtime API closed", site).problem


@contextmanager
def open_proxy(server: Deployment) -> Generator[str]:
    """A proxy whose operator lets everything through."""
    address, folder = f"127.0.0.1:{free_port()}", server.root / "open"
    shutil.copytree(server.server.proxy, folder)
    text = (folder / "nginx.conf").read_text().replace(f"listen {server.proxy}", f"listen {address}")
    everything = "location / {\n            proxy_pass https://superlink;"
    (folder / "nginx.conf").write_text(text.replace("location / {\n            return 403;", everything))
    serve = server.services["proxy"].command[0]
    home = server.root / "open-home"
    environment = {**server.services["proxy"].environment, "FLWR_HOME": str(home)}
    process = Process([serve, str(folder), str(server.root / "open-scratch")], home, environment)
    process.start()
    try:
        wait_until(lambda: is_open("127.0.0.1", port_of(address)), 60, "the open proxy listens")
        yield address
    finally:
        process.end()
        shutil.rmtree(folder)


def test_a_superlink_beside_the_proxy_is_told(
    server: Deployment, site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(network, "SUPERLINK_PORT", listener.getsockname()[1])
        assert "takes connections from here" in find("control and runtime API closed", site).problem


def test_a_folder_of_images_is_a_sites_data(server: Deployment, site: SiteFolder, tmp_path: Path) -> None:
    change(site.settings, data=str(write_images(tmp_path / "images", 0, 100)))
    assert find("data", site).found.startswith("80 samples to train on, 20 held out; 11 0, 12 1, 10 2, ")
    assert find("training step", site).problem == ""


def test_a_function_in_the_sites_folder_is_a_sites_data(server: Deployment, site: SiteFolder, tmp_path: Path) -> None:
    change(site.settings, data=write_ward(site.code, tmp_path / "vitals.csv", 0, 100))
    said = fedrebasin("site", "check", "--folder", site.path)
    assert {each["check"]: each["problem"] for each in said["checks"]}["data"] == ""


def test_the_command_answers_in_three_columns_and_ends_with_0(server: Deployment, site: SiteFolder) -> None:
    done = CliRunner().invoke(app, ["site", "check", "--folder", str(site.path)])
    assert done.exit_code == PASSED, done.stdout
    assert "all checks passed" in done.stdout
    header = next(line for line in done.stdout.splitlines() if "problem" in line)
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == ["check", "problem", "how to fix"]


def test_the_command_ends_with_1_when_a_check_fails(server: Deployment, site: SiteFolder) -> None:
    change(site.settings, least_free_gigabytes=1e9)
    said = fedrebasin("site", "check", "--folder", site.path)
    assert said["exit-code"] == FAILED
    assert [each["check"] for each in said["checks"] if each["problem"]] == ["disk"]


def test_the_command_ends_with_2_where_there_is_no_kit(tmp_path: Path) -> None:
    said = fedrebasin("site", "check", "--folder", tmp_path)
    assert said["exit-code"] == NO_KIT
    assert "no membership.toml" in said["problem"]


def test_with_keys_and_without_a_kit_it_says_what_is_waited_for(tmp_path: Path) -> None:
    fedrebasin("site", "request", "st-marys", "--folder", tmp_path / "site")
    said = fedrebasin("site", "check", "--folder", tmp_path / "site")
    assert said["exit-code"] == NO_KIT
    assert "keys are there, no kit was installed yet" in said["problem"]


def test_without_a_configuration_nothing_else_is_tried(server: Deployment, site: SiteFolder) -> None:
    change(site.settings, dta="x")
    said = fedrebasin("site", "check", "--folder", site.path)
    assert {each["problem"] for each in said["checks"][1:]} == {"not tried"}


def test_a_check_that_fails_in_a_way_nobody_thought_of_is_a_problem_too(server: Deployment, site: SiteFolder) -> None:
    site.authority.unlink()
    assert "FileNotFoundError" in find("proxy reachable", site).problem

"""A site runs once at a time, wherever its folder lies, and leaves nothing behind."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import Part, read_parts
from cli.ports import free_port
from cli.site_ports import HOW_TO_FREE, check_ports
from cli.supervise import hold
from tests.test_preflight import find, member
from tests.waiting import wait_until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
with_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
FEDREBASIN = Path(sys.executable).parent / "fedrebasin"


def told(site: SiteFolder, *part: str) -> str:
    """How ``site run`` refuses; fails where it runs instead."""
    process = subprocess.Popen(
        [FEDREBASIN, "site", "run", *part, "--folder", site.path], stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=180)
    finally:
        # It ends what it has started.
        process.terminate()
        process.wait(60)
    assert process.returncode == 31
    return said


def set_ports(site: SiteFolder, **ports: int) -> None:
    """Has the site's sidecar stay up: nginx asks at its start who the proxy is."""
    site.membership.write_text(site.membership.read_text().replace("proxy.example", "127.0.0.1"))
    settings = {"data": "digits", **{name.replace("_", "-"): port for name, port in ports.items()}}
    site.settings.write_text(tomli_w.dumps(settings))


@contextmanager
def running(site: SiteFolder, port: int) -> Generator[None]:
    """The site's way out, as a unit of systemd's runs it."""
    process = subprocess.Popen([FEDREBASIN, "site", "run", "sidecar", "--folder", site.path])

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, 180, "the sidecar listens")
        yield
    finally:
        process.terminate()
        process.wait(60)


@with_nginx
@pytest.mark.parametrize("name", ["site", "röntgen ward; 2 {b}"])
def test_a_site_of_which_a_process_runs_is_not_started_again(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    site, port = member(tmp_path / name, "seed"), free_port()
    set_ports(site, sidecar_port=port)
    with running(site, port):
        assert f"{site.path.resolve()}: this site runs already. End that first" in told(site)
    os.close(hold(site, fcntl.LOCK_EX))


def test_a_site_whose_processes_are_kept_up_is_started_neither_whole_nor_in_part(tmp_path: Path) -> None:
    site = member(tmp_path, "seed")
    held = hold(site, fcntl.LOCK_EX)
    for part in ((), ("supernode",)):
        assert "this site runs already" in told(site, *part)
    os.close(held)


def test_the_parts_of_a_site_run_beside_each_other(tmp_path: Path) -> None:
    site = member(tmp_path, "seed")
    for held in [hold(site, fcntl.LOCK_SH) for _ in Part]:
        os.close(held)


@pytest.fixture
def taken() -> Generator[int]:
    """A port at which another listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@with_nginx
@pytest.mark.parametrize("key", ["sidecar_port", "runtime_port"])
def test_a_site_whose_port_another_has_does_not_start_and_its_check_fails(tmp_path: Path, taken: int, key: str) -> None:
    site = member(tmp_path, "seed")
    set_ports(site, **{"sidecar_port": free_port(), "runtime_port": free_port(), key: taken})
    told_of = f"{key.replace('_', '-')} {taken}: 127.0.0.1:{taken}: Address already in use"
    for part in ((), ("sidecar",) if key == "sidecar_port" else ("supernode",)):
        said = told(site, *part).replace("\n", " ")
        assert f"{site.settings}: {told_of}. End what listens there" in said
    found = find("ports", site)
    assert (found.problem, found.fix) == (told_of, HOW_TO_FREE)


def test_a_port_of_a_part_that_is_not_started_is_not_looked_at(tmp_path: Path, taken: int) -> None:
    site = member(tmp_path, "seed")
    set_ports(site, sidecar_port=free_port(), runtime_port=taken)
    check_ports(read_parts(site), [Part.SIDECAR, Part.SUPEREXEC])


def test_a_site_that_runs_has_its_ports_rightly(tmp_path: Path, taken: int) -> None:
    site = member(tmp_path, "seed")
    set_ports(site, sidecar_port=taken, runtime_port=free_port())
    for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        held = hold(site, how)
        assert find("ports", site).problem == ""
        os.close(held)
    assert find("ports", site).problem


def test_a_port_that_a_killed_run_of_the_site_left_taken_is_its_own(tmp_path: Path) -> None:
    site, port = member(tmp_path, "seed"), free_port()
    set_ports(site, sidecar_port=free_port(), runtime_port=port)
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('listens', flush=True); s.accept()"
    environment = os.environ | {"FLWR_HOME": str(site.state.resolve() / "flower")}
    left = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    try:
        assert left.stdout is not None
        left.stdout.readline()
        assert find("ports", site).problem == ""
    finally:
        left.kill()
        left.communicate()


@with_nginx
def test_a_site_that_was_run_leaves_no_folder_behind(tmp_path: Path) -> None:
    site, scratch = member(tmp_path, "seed"), tmp_path / "scratch"
    scratch.mkdir()
    command = [FEDREBASIN, "site", "run", "--folder", site.path]
    process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(scratch.glob("*/sidecar.conf")), 180, "the site starts its sidecar", every=0.1)
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert not list(scratch.iterdir())


@with_nginx
def test_what_a_killed_run_left_ends_and_goes_with_the_next_start_and_nothing_else_does(tmp_path: Path) -> None:
    site, scratch = member(tmp_path, "seed"), tmp_path / "scratch"
    set_ports(site, sidecar_port=free_port(), runtime_port=free_port())
    others = scratch / "fedrebasin-0-0-others"
    others.mkdir(parents=True)

    def sidecars() -> dict[Path, int]:
        # nginx writes its number when it listens: never while another does.
        return {path: int(path.read_text() or 0) for path in scratch.glob("*/sidecar.pid")}

    def start() -> subprocess.Popen[bytes]:
        command = [FEDREBASIN, "site", "run", "--folder", site.path]
        return subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}, stderr=subprocess.DEVNULL)

    killed = start()
    wait_until(lambda: any(sidecars().values()), 180, "the site's sidecar listens", every=0.1)
    killed.kill()
    killed.wait(60)
    left = sidecars()
    beside = subprocess.Popen(["sleep", "600"])
    next_one = start()
    try:
        wait_until(lambda: any(n for path, n in sidecars().items() if path not in left), 180, "it listens again")
        assert not sidecars().keys() & left.keys()
        assert beside.poll() is None
    finally:
        beside.kill()
        beside.wait(10)
        next_one.terminate()
        assert next_one.wait(120) == 0
    assert list(scratch.iterdir()) == [others]

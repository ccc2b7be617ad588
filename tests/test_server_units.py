"""The systemd units of a federation's server, as they are written; tests/deployment/test_systemd.py runs them."""

from pathlib import Path

import pytest

from cli.enrolment.errors import EnrolmentError
from cli.enrolment.kits import install_kit
from cli.enrolment.layout import ServerFolder
from cli.enrolment.server import make_server
from cli.enrolment.settings import Federation
from cli.enrolment.units import ServerPlaces, write_server_units
from cli.errors import OptionError
from tests.commands import run
from tests.test_enrolment import ME, joined


def server_of(tmp_path: Path, **settings: str) -> ServerFolder:
    """A server's folder with these settings."""
    folder = ServerFolder(tmp_path / "server")
    make_server(
        folder, Federation.model_validate({"proxy": "proxy.example:8443", "image": "fedrebasin:test"} | settings)
    )
    return folder


@pytest.mark.parametrize("command", [("site", "configure", "--systemd"), ("server", "units")])
def test_units_that_would_run_as_root_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    if command[0] == "site":
        site, kit, told = joined(tmp_path)
        install_kit(kit, site, told)
    done = run(capsys, *command, tmp_path, "--user", "root", "--folder", tmp_path / command[0])
    assert done.code == OptionError.exit_code
    assert "--user root: expected a user of the federation's own" in done.err
    assert not list(tmp_path.glob("*.service"))


def test_the_units_of_a_server_say_what_its_settings_say(tmp_path: Path) -> None:
    server = server_of(tmp_path, superlink="127.0.0.1:8017", listen="0.0.0.0:443")
    places = ServerPlaces(server, tmp_path / "state", tmp_path / "runs")
    written = write_server_units(places, tmp_path, Path("/opt/bin/fedrebasin"), ME)
    units = {path.name.removeprefix("fedrebasin-server-"): path.read_text() for path in written}
    assert sorted(units) == [f"{name}.service" for name in ("exporter", "proxy", "superexec", "superlink")]
    assert "ExecStart=/opt/bin/flower-superlink --host 127.0.0.1 --port 8017 " in units["superlink.service"]
    # A port below 1024 is lent to the proxy, and nothing else of root's.
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in units["proxy.service"]
    assert f"BindPaths={tmp_path}/state/superexec {tmp_path}/runs\n" in units["superexec.service"]
    assert (tmp_path / "state" / "superlink").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "runs").is_dir()


def test_units_of_a_superlink_that_others_could_reach_are_refused(tmp_path: Path) -> None:
    server = server_of(tmp_path, superlink="superlink:8000")
    places = ServerPlaces(server, tmp_path / "state", tmp_path / "runs")
    with pytest.raises(EnrolmentError, match=r"superlink is 'superlink:8000', expected 127.0.0.1 and a port"):
        write_server_units(places, tmp_path, Path("/opt/bin/fedrebasin"), ME)
    assert not (tmp_path / "state").exists()

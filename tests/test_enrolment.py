"""Keys, requests, certificates and kits: what a site gives away, and what it takes."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import tomli_w
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.enrolment.authority import Authority, new_authority, pem, read_certificate
from cli.enrolment.errors import EnrolmentError, KitError
from cli.enrolment.files import alone_in, read_settings
from cli.enrolment.keys import PublicKey, fingerprint, new_key, public_ssh, read_private, read_public
from cli.enrolment.kits import (
    install_kit,
    kit_fingerprint,
    kit_folder,
    membership_of,
    write_environment,
    write_kit,
)
from cli.enrolment.layout import ServerFolder, SiteFolder
from cli.enrolment.parts import read_parts
from cli.enrolment.register import Entry, Issued, Register, read_register, write_register
from cli.enrolment.requests import compare, make_request, read_request
from cli.enrolment.server import days_left, make_server, open_server
from cli.enrolment.settings import Federation, Membership, SiteSettings, host_of
from cli.enrolment.units import write_units
from cli.errors import OptionError
from cli.ports import free_port
from strategies.errors import SettingsError
from tests.commands import Ran, run

AUTHORITY = new_authority("tests")
FEDERATION = Federation(proxy="proxy.example:8443", image="fedrebasin:test", run={"model": "mlp", "rounds": 2})
SECRET = b"PRIVATE KEY"
ME = pwd.getpwuid(os.getuid()).pw_name


def joined(tmp_path: Path, authority: Authority = AUTHORITY) -> tuple[SiteFolder, Path, str]:
    """A site that has asked, its kit, and the kit's fingerprint."""
    site = SiteFolder(tmp_path / "site")
    asked = read_request(make_request(site, "site-us"))
    certificate = authority.sign_site(asked.key, asked.name, 365)
    kit = tmp_path / "kit"
    with kit_folder(kit) as folder:
        told = write_kit(folder, membership_of(FEDERATION, asked.name, "17"), authority.certificate, certificate)
    return site, kit, told


def test_the_request_holds_no_secret_and_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    site = SiteFolder(tmp_path)
    request = make_request(site, "site-us")
    assert SECRET not in request.read_bytes()
    for path in (site.key, site.node_key):
        assert SECRET in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert site.keys.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_request_shuts_no_folder_but_those_that_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "place"
    if there:
        folder.mkdir()
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
    assert run(capsys, "site", "request", "site-us", "--folder", "." if there else folder).code == 0
    assert folder.stat().st_mode & 0o777 == (0o755 if there else 0o700)
    assert SiteFolder(folder).keys.stat().st_mode & 0o777 == 0o700


def test_both_files_hold_one_key_and_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    site = SiteFolder(tmp_path)
    make_request(site, "site-us")
    key = read_private(site.key).public_key()
    (tmp_path / "site.pub").write_bytes(public_ssh(key))
    said = subprocess.run(["ssh-keygen", "-lf", tmp_path / "site.pub"], capture_output=True, text=True, check=True)
    assert said.stdout.split()[1] == fingerprint(key)
    derived = subprocess.run(["ssh-keygen", "-yf", site.node_key], capture_output=True, check=True).stdout
    assert fingerprint(read_public(derived)) == fingerprint(key)


def test_a_second_request_does_not_overwrite_the_key(tmp_path: Path) -> None:
    make_request(SiteFolder(tmp_path), "site-us")
    before = SiteFolder(tmp_path).key.read_bytes()
    with pytest.raises(EnrolmentError, match="has a key already"):
        make_request(SiteFolder(tmp_path), "site-us")
    assert SiteFolder(tmp_path).key.read_bytes() == before


@pytest.mark.parametrize("name", ["../up", "a b", "", "x" * 65, 'quo"te', "two\nlines", "merged", "config.1"])
def test_a_name_that_could_not_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnrolmentError, match="site name"):
        make_request(SiteFolder(tmp_path), name)


def test_a_request_that_was_signed_with_another_key_is_refused(tmp_path: Path) -> None:
    request = make_request(SiteFolder(tmp_path), "site-us")
    content = bytearray(x509.load_pem_x509_csr(request.read_bytes()).public_bytes(Encoding.DER))
    content[-1] ^= 1
    request.write_bytes(pem(x509.load_der_x509_csr(bytes(content))))
    with pytest.raises(EnrolmentError, match="signature is not that of the key"):
        read_request(request)


def test_a_request_with_another_fingerprint_than_told_is_refused() -> None:
    with pytest.raises(EnrolmentError, match="Do not go on"):
        compare("SHA256:other", new_key().public_key(), "site-us.request.pem")


def test_a_file_that_is_no_request_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(EnrolmentError, match="no certificate request can be read"):
        read_request(tmp_path / "x")


def test_a_kit_holds_no_secret_and_no_file_too_many(tmp_path: Path) -> None:
    _, kit, _ = joined(tmp_path)
    assert sorted(path.name for path in kit.iterdir()) == [
        *("ca.crt", "compose.yml", "membership.toml", "site.crt", "site.toml")
    ]
    assert not any(SECRET in path.read_bytes() for path in kit.iterdir())


def test_an_installed_kit_makes_a_site(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    membership = install_kit(kit, site, told)
    assert (membership.site, membership.node_id, membership.proxy) == ("site-us", "17", "proxy.example:8443")
    assert read_settings(site.settings, SiteSettings).data == "", "the site's operator says where its data is"
    for name in ("inside.key", "superexec.secret"):
        assert (site.inside / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["ca.crt", "site.crt", "compose.yml", "membership.toml", "site.toml"])
def test_a_kit_that_was_changed_on_its_way_is_refused(tmp_path: Path, name: str) -> None:
    site, kit, told = joined(tmp_path)
    with (kit / name).open("ab") as file:
        file.write(b"#")
    with pytest.raises(KitError, match="Do not use this kit"):
        install_kit(kit, site, told)
    assert not site.membership.exists()


def test_what_a_site_keeps_is_its_owners_alone_wherever_its_folder_is(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    for folder in (site.keys, site.inside, site.state):
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_a_kit_with_a_file_too_many_is_none(tmp_path: Path) -> None:
    _, kit, _ = joined(tmp_path)
    (kit / "extra.sh").write_text("")
    with pytest.raises(KitError, match="not a kit"):
        kit_fingerprint(kit)


def test_a_kit_for_another_key_is_refused(tmp_path: Path) -> None:
    _, kit, told = joined(tmp_path / "one")
    other, _, _ = joined(tmp_path / "two")
    with pytest.raises(KitError, match="for another key"):
        install_kit(kit, other, told)


def test_a_renewed_kit_leaves_the_sites_own_settings_and_secrets(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    site.settings.write_text('data = "/data"\n')
    secret = (site.inside / "superexec.secret").read_bytes()
    install_kit(kit, site, told)
    assert site.settings.read_text() == 'data = "/data"\n'
    assert (site.inside / "superexec.secret").read_bytes() == secret


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("dat = 'digits'", "'dat': there is no such setting; the nearest is 'data'"),
        ("data = 3", "setting 'data': expected text, got 3 (int)"),
        ("threads = 1", "'data' is missing"),
        ("data = ", "not TOML"),
        (
            "data = '/data'\ndata-folder = 'xrays'",
            "'data-folder': expected the whole path of a folder such as /srv/x-rays, without ':', '$', \\ and single "
            "quotes, "
            "got 'xrays'",
        ),
        ("data = '/data'\ndata-folder = '~/x-rays'", "'data-folder': expected the whole path"),
        ("data = '/data'\ndata-folder = '/srv/a:b'", "'data-folder': expected the whole path"),
        ("data = '/data'\ndata-folder = '/srv/$HOME'", "'data-folder': expected the whole path"),
        ('data = "/data"\ndata-folder = "/srv/a\'b"', "'data-folder': expected the whole path"),
        ('data = "/data"\ndata-folder = "/srv/a\\nb"', "'data-folder': expected the whole path"),
        (
            "data = 'digits'\nmemory = '4 GB'",
            "setting 'memory': expected megabytes or gigabytes such as 512m or 4g, got '4 GB' (str)",
        ),
        ("data = 'digits'\nmemory = '0m'", "setting 'memory': expected megabytes or gigabytes such as 512m or 4g"),
    ],
)
def test_what_is_wrong_in_a_sites_settings_is_said(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "site.toml").write_text(line)
    with pytest.raises(SettingsError) as raised:
        read_settings(tmp_path / "site.toml", SiteSettings)
    assert told in str(raised.value)


def test_containers_and_units_say_what_the_settings_say(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    changes = {"data": "/data", "data-folder": "/srv/x-rays", "memory": "7g"}
    site.settings.write_text(tomli_w.dumps(changes))
    assert "FEDREBASIN_DATA=/srv/x-rays\nFEDREBASIN_MEMORY=7g" in write_environment(site).read_text()
    units = {path.name: path.read_text() for path in write_units(site, tmp_path, Path("/opt/bin/fedrebasin"), ME)}
    assert sorted(units) == [f"fedrebasin-{part}.service" for part in ("sidecar", "superexec", "supernode")]
    training = units["fedrebasin-superexec.service"]
    assert f"ExecStart=/opt/bin/fedrebasin site run superexec --folder {site.path.resolve()}\n" in training
    assert "MemoryMax=7G\n" in training
    assert f"InaccessiblePaths={site.path.resolve()}/keys" in training
    assert "PrivateUsers=true\n" in training
    assert all("ProtectProc=invisible\n" in unit and "LimitCORE=0\n" in unit for unit in units.values())


def test_containers_run_as_who_owns_the_keys_whoever_configures_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, kit, told = joined(tmp_path)
    owner = site.keys.stat()
    # As root, say, after `chown -R`.
    monkeypatch.setattr(os, "getuid", lambda: owner.st_uid + 4242)
    monkeypatch.setattr(os, "getgid", lambda: owner.st_gid + 4242)
    install_kit(kit, site, told)
    assert f"FEDREBASIN_USER={owner.st_uid}:{owner.st_gid}\n" in write_environment(site).read_text()


@pytest.mark.parametrize("folder", ["/srv/x-rays", "/srv/a #x", '/srv/the "new" ones', "/srv/röntgen", ""])
def test_compose_reads_the_folder_of_the_data_as_it_stands_in_the_settings(tmp_path: Path, folder: str) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("no docker-compose here")
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    site.settings.write_text(tomli_w.dumps({"data": "/data", "data-folder": folder}))
    write_environment(site)
    command = ["docker-compose", "--project-directory", site.path, "-f", site.path / "compose.yml", "config"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, cwd=site.path)
    assert said.returncode == 0, said.stderr
    mounts: list[str | dict[str, str]] = yaml.safe_load(said.stdout)["services"]["superexec"]["volumes"]
    # The first generation of Compose prints them in one line each, the second as tables.
    sources = [each["source"] if isinstance(each, dict) else each.partition(":")[0] for each in mounts]
    assert (folder or f"{site.path}/state/no-data") in sources


def test_from_a_user_namespace_of_its_own_a_process_cannot_look_into_others_of_its_user() -> None:
    # What the unit's PrivateUsers= rests on: the same user, but the key's holder is in another namespace.
    apart = ("unshare", "--user", "--map-current-user")
    if shutil.which(apart[0]) is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    look = ("cat", f"/proc/{os.getpid()}/environ")
    assert subprocess.run(look, check=False, capture_output=True).returncode == 0
    assert b"Permission denied" in subprocess.run([*apart, *look], check=False, capture_output=True).stderr


def test_units_for_a_user_who_could_not_read_the_keys_are_refused(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    other = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.getuid())
    with pytest.raises(KitError, match="no such user on this machine: `useradd --system nobody-here` makes one"):
        write_units(site, tmp_path, Path("fedrebasin"), "nobody-here")
    with pytest.raises(KitError, match=f"chown -R {other}: {site.path}"):
        write_units(site, tmp_path, Path("fedrebasin"), other)
    assert not list(tmp_path.glob("*.service"))


def test_units_that_systemd_would_misread_are_refused(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path / "50% x")
    install_kit(kit, site, told)
    with pytest.raises(KitError, match=r"50% x/site: in a unit systemd reads white space, .*: move it to a path"):
        write_units(site, tmp_path, Path("/opt/bin/fedrebasin"), ME)
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    with pytest.raises(KitError, match=r"/opt/\$x/fedrebasin: in a unit systemd"):
        write_units(site, tmp_path, Path("/opt/$x/fedrebasin"), ME)
    assert not list(tmp_path.glob("*.service"))


def test_units_for_a_user_who_could_not_come_to_the_folder_are_refused(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root makes units for others")
    other = next(user for user in pwd.getpwall() if user.pw_uid)
    with tempfile.TemporaryDirectory() as closed:
        site, kit, told = joined(Path(closed))
        install_kit(kit, site, told)
        for path in (site.path, *site.path.rglob("*")):
            os.chown(path, other.pw_uid, other.pw_gid)
        told = f"site: the user {other.pw_name} cannot enter {closed}: move it to where they can.* `chmod o.x {closed}`"
        with pytest.raises(KitError, match=told):
            write_units(site, tmp_path, Path("/usr/bin/env"), other.pw_name)
    assert not list(tmp_path.glob("*.service"))


@pytest.fixture
def others_site() -> Generator[tuple[SiteFolder, pwd.struct_passwd]]:
    """A site that belongs to another user, in a folder that they can enter; root alone makes units for it."""
    if os.geteuid():
        pytest.skip("only root makes units for others")
    other = next(user for user in pwd.getpwall() if user.pw_uid)
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        site, kit, told = joined(Path(place))
        install_kit(kit, site, told)
        for path in (site.path, *site.path.rglob("*")):
            os.chown(path, other.pw_uid, other.pw_gid)
        yield site, other


def test_units_for_a_user_who_could_not_run_the_command_are_refused(
    others_site: tuple[SiteFolder, pwd.struct_passwd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, other = others_site
    # That of the tests may lie in a home.
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    command = site.path.parent / "clone" / ".venv" / "bin" / "fedrebasin"
    command.parent.mkdir(parents=True)
    module = command.parents[1] / "module"
    module.write_text("")
    command.write_text(f"#!/bin/sh\ncat {module}\n")
    advice = f"with `umask 022`, or `chmod -R o.rX {command.parents[2]}`"
    for path in (command, module):
        command.chmod(0o755)
        module.chmod(0o644)
        # As under umask 077, but for the folders.
        path.chmod(0o700)
        with pytest.raises(KitError, match=rf"the user {other.pw_name} cannot run it: .*Permission denied.*{advice}"):
            write_units(site, tmp_path, command, other.pw_name)
        path.chmod(0o755)
    assert len(write_units(site, tmp_path, command, other.pw_name)) == 3


def test_nobody_is_told_to_open_a_home(
    others_site: tuple[SiteFolder, pwd.struct_passwd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, other = others_site
    home = site.path.parent / "home"
    home.mkdir(mode=0o700)
    users = [*pwd.getpwall(), pwd.struct_passwd(("me", "x", 0, 0, "", str(home), "/bin/sh"))]
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    with pytest.raises(KitError, match=f"cannot enter {home}: move it to where they can, such as /srv/fedrebasin$"):
        write_units(site, tmp_path, home / "clone" / ".venv" / "bin" / "fedrebasin", other.pw_name)


def test_a_site_that_has_not_said_where_its_data_is_does_not_start(tmp_path: Path) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    with pytest.raises(KitError, match="data is empty; say there where the samples are"):
        read_parts(site)


def test_a_kit_takes_the_place_of_a_kit_and_of_nothing_else(tmp_path: Path) -> None:
    _, kit, told = joined(tmp_path)
    with pytest.raises(KeyboardInterrupt), kit_folder(kit):
        raise KeyboardInterrupt
    assert kit_fingerprint(kit) == told
    with kit_folder(kit):
        pass
    assert list(kit.iterdir()) == []
    (kit / "thesis.tex").write_text("")
    with pytest.raises(KitError, match="there is something that is no kit; name another place with --kit"):
        kit_folder(kit).__enter__()
    assert (kit / "thesis.tex").exists()
    with pytest.raises(KitError, match="a kit cannot be written here"):
        kit_folder(kit / "thesis.tex" / "below").__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "site"]


def test_a_kit_takes_no_place_that_cannot_be_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before the block, in which certificates are signed."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in (".", "", "../empty", "nowhere/.."):
        with pytest.raises(KitError, match="empty: a kit cannot take the place of the current folder; name one in it"):
            kit_folder(Path(name)).__enter__()
    monkeypatch.chdir(tmp_path)
    with kit_folder(Path("nowhere/../empty")) as made:
        (made / "ca.crt").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["empty", "empty/ca.crt"]


def test_what_is_mounted_where_the_kit_should_be_is_told_before_anything_is_signed(tmp_path: Path) -> None:
    apart = ("unshare", "--user", "--map-root-user", "--mount")
    if shutil.which(apart[0]) is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    (tmp_path / "kit").mkdir()
    script = "import sys; from pathlib import Path; from cli.enrolment.kits import kit_folder\n"
    script += "with kit_folder(Path(sys.argv[1])): print('signed')"
    mounted = 'mount -t tmpfs none "$0" && exec "$1" -c "$2" "$0"'
    command = [*apart, "sh", "-c", mounted, tmp_path / "kit", sys.executable, script]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "KitError" in said.stderr
    assert "kit: a kit cannot be written here: Device or resource busy; name another place with --kit" in said.stderr
    assert said.stdout == ""


@pytest.mark.parametrize(
    ("command", "code", "advice"),
    [
        (("site", "request", "site-us", "--folder"), 30, "name another place with --folder"),
        (("server", "init", "--proxy", "localhost:8443", "--folder"), 30, "name another place with --folder"),
        (("site", "configure", "--folder", "site", "--systemd"), 31, "name a folder that is there with --systemd"),
    ],
    ids=["request", "init", "configure"],
)
def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    code: int,
    advice: str,
) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    monkeypatch.chdir(tmp_path)
    # Not even root writes below a file.
    (tmp_path / "file").write_text("")
    done = run(capsys, *command, tmp_path / "file" / "below")
    assert done.code == code
    assert f"{tmp_path / 'file' / 'below'}" in done.err
    assert "cannot be read or written: Not a directory" in done.err
    assert advice in done.err


def test_a_kit_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "site", "install", tmp_path / "nope.kit", "--fingerprint", "x", "--folder", tmp_path)
    assert done.code == 31
    assert "nope.kit: no such folder: expected the kit that `fedrebasin server approve` made" in done.err


def test_without_a_superlink_nobody_is_let_in_and_no_kit_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Flower says of it comes as one sentence, with the address at which it was looked for."""
    server, address = tmp_path / "server", f"localhost:{free_port()}"
    run(capsys, "server", "init", "--proxy", "localhost:8443", "--superlink", address, "--folder", server)
    request = make_request(SiteFolder(tmp_path / "site"), "site-us")
    done = run(capsys, "server", "approve", request, "--folder", server, "--kit", tmp_path / "kits" / "a.kit")
    assert done.code == 15
    assert f"the SuperLink did not register 'site-us': Using SuperLink: fedrebasin ({address}) Conn" in done.err
    assert "{" not in done.err
    assert list((tmp_path / "kits").iterdir()) == []
    assert json.loads((server / "sites.json").read_text())["sites"] == []


def test_a_site_is_shut_out_though_the_superlink_is_silent_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = tmp_path / "server"
    address = ("--superlink", f"localhost:{free_port()}")
    assert run(capsys, "server", "init", "--proxy", "localhost:8443", *address, "--folder", server).code == 0
    entry = entry_with(AUTHORITY.sign_site(new_key().public_key(), "site-us", 1))
    write_register(server / "sites.json", Register(sites=[entry]))
    done = run(capsys, "server", "revoke", "site-us", "--folder", server)
    assert done.code == 15
    assert "site-us is refused at the proxy; its key is still known to the SuperLink, which did not answer" in done.err
    assert "When it is back, say `fedrebasin server revoke site-us` again" in done.err
    assert [each.status for each in read_register(server / "sites.json").sites] == ["revoked"]
    assert (server / "proxy" / "sites.map").read_text() == ""


def test_a_request_under_a_wrong_name_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "site", "request", "../x", "--folder", tmp_path / "site").code != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_federation_shuts_no_folder_but_those_that_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    folder = ServerFolder(tmp_path / "place")
    if there:
        folder.path.mkdir()
        folder.path.chmod(0o755)
    assert run(capsys, "server", "init", "--proxy", "localhost:8443", "--folder", folder.path).code == 0
    assert folder.path.stat().st_mode & 0o777 == (0o755 if there else 0o700)
    for each in (folder.proxy, folder.superlink, folder.superexec, folder.operator, folder.issued):
        assert each.stat().st_mode & 0o777 == 0o700
    assert (folder.path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_a_certificate_does_not_outlive_the_authority(capsys: pytest.CaptureFixture[str]) -> None:
    authority = new_authority("tests", 100)
    certificate = authority.sign_site(new_key().public_key(), "site-us", 365)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert "the certificate of 'site-us' is good until" in (said := capsys.readouterr().err)
    assert "and not for 365 days: the federation's authority ends then" in said
    # As long as the authority, but for the moment in between: nothing that has to be said.
    for days in (99, 100):
        authority.sign_server(new_key().public_key(), "proxy", ["localhost"], days)
    assert capsys.readouterr().err == ""


def test_a_federation_is_made_once(tmp_path: Path) -> None:
    make_server(ServerFolder(tmp_path), FEDERATION)
    with pytest.raises(EnrolmentError, match=r"holds a federation already\. `fedrebasin server approve` lets sites in"):
        make_server(ServerFolder(tmp_path), FEDERATION)


def test_only_the_services_that_need_a_secret_hold_it(tmp_path: Path) -> None:
    folder = ServerFolder(tmp_path)
    make_server(folder, FEDERATION)
    secret = (folder.superlink / "superexec.secret").read_bytes()
    holders = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file() and holds(p, secret)}
    assert holders == {
        *("ca.key", "proxy/proxy.key", "superlink/superlink.key"),
        *("superlink/superexec.secret", "superexec/superexec.secret"),
    }
    assert all((tmp_path / each).stat().st_mode & 0o077 == 0 for each in holders)


def holds(path: Path, secret: bytes) -> bool:
    """Whether a file holds a key or the secret."""
    content = path.read_bytes()
    return SECRET in content or secret in content


def test_certificates_of_sites_cannot_serve_and_those_of_servers_cannot_call() -> None:
    key = new_key().public_key()
    purposes = x509.ExtendedKeyUsage
    site = AUTHORITY.sign_site(key, "site-us", 1).extensions.get_extension_for_class(purposes).value
    host = AUTHORITY.sign_server(key, "proxy", ["proxy"], 1).extensions.get_extension_for_class(purposes).value
    assert list(site) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert list(host) == [ExtendedKeyUsageOID.SERVER_AUTH]


def entry_with(certificate: x509.Certificate) -> Entry:
    """The entry of site-us, let in with ``certificate``."""
    key = certificate.public_key()
    assert isinstance(key, PublicKey)
    return Entry(
        name="site-us",
        status="enrolled",
        public_key=public_ssh(key).decode().strip(),
        node_id="1",
        approved=certificate.not_valid_before_utc,
        certificates=[Issued.of(certificate)],
    )


def test_a_site_that_was_taken_back_is_on_the_list_with_every_certificate(tmp_path: Path) -> None:
    key = new_key().public_key()
    first, second = (AUTHORITY.sign_site(key, "site-us", days) for days in (1, 2))
    entry = entry_with(first)
    register = Register(sites=[entry]).with_entry(entry.renewed(second).taken_back())
    write_register(tmp_path / "sites.json", register)
    read = read_register(tmp_path / "sites.json")
    assert read == register
    assert read.enrolled("site-us") is None
    listed = AUTHORITY.revocations(read.revoked_serials())
    assert {each.serial_number for each in listed} == {first.serial_number, second.serial_number}
    assert listed.is_signature_valid(AUTHORITY.key.public_key())


def test_a_site_is_taken_back_though_the_authority_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("cli.enrolment.authority.BACKDATED", timedelta(days=30))
        ended = new_authority("tests", days=-20)
    (listed,) = ended.revocations([(4242, datetime.now(UTC))])
    assert listed.serial_number == 4242


def test_two_operators_change_the_list_one_after_the_other(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from cli.enrolment.files import alone_in\n"
    script += "with alone_in(Path(sys.argv[1])): print('in', flush=True)"
    with alone_in(tmp_path):
        second = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            second.communicate(timeout=5)
    assert second.communicate(timeout=180)[0] == b"in\n"


def test_a_damaged_list_of_sites_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "sites.json").write_text("{")
    with pytest.raises(EnrolmentError, match="restore it from a backup"):
        read_register(tmp_path / "sites.json")


def test_the_name_in_a_certificate_is_the_one_that_was_asked_for() -> None:
    certificate = AUTHORITY.sign_site(new_key().public_key(), "site-us", 1)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "site-us"


def enrolled(tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str) -> Path:
    """A server's folder in which site-us is enrolled, made with ``image``."""
    server = tmp_path / "server"
    options = ("--image", image) if image else ()
    assert run(capsys, "server", "init", "--proxy", "localhost:8443", *options, "--folder", server).code == 0
    entry = entry_with(AUTHORITY.sign_site(new_key().public_key(), "site-us", 1))
    write_register(server / "sites.json", Register(sites=[entry]))
    return server


def renew(capsys: pytest.CaptureFixture[str], server: Path, *options: str | Path) -> Ran:
    """``server renew`` of site-us, which ends well, with its kit beside the server's folder."""
    kit = server.parent / "new.kit"
    done = run(capsys, "server", "renew", "site-us", "--kit", kit, "--folder", server, *options)
    assert done.code == 0, done.err
    return done


def renewed(capsys: pytest.CaptureFixture[str], server: Path, *options: str | Path) -> Membership:
    """What the kit says that ``server renew`` makes for site-us."""
    renew(capsys, server, *options)
    return read_settings(server.parent / "new.kit" / "membership.toml", Membership)


@pytest.mark.parametrize(
    ("made_with", "option", "variable", "expected"),
    [
        ("fedrebasin:0.0.9", "", "", f"fedrebasin:{version('fedrebasin')}"),
        ("fedrebasin:0.2.0rc1", "", "", f"fedrebasin:{version('fedrebasin')}"),
        ("registry.example/fedrebasin:7", "", "", "registry.example/fedrebasin:7"),
        ("fedrebasin:ours", "", "", "fedrebasin:ours"),
        ("registry.example/fedrebasin:7", "registry.example/fedrebasin:8", "", "registry.example/fedrebasin:8"),
        ("registry.example/fedrebasin:7", "", "registry.example/fedrebasin:9", "registry.example/fedrebasin:9"),
    ],
)
def test_a_renewed_kit_names_the_image_of_now(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    made_with: str,
    option: str,
    variable: str,
    expected: str,
) -> None:
    server = enrolled(tmp_path, capsys, made_with)
    monkeypatch.setenv("FEDREBASIN_IMAGE", variable)
    told = renewed(capsys, server, *(("--image", option) if option else ()))
    assert (told.version, told.image) == (version("fedrebasin"), expected)
    assert f"image: ${{FEDREBASIN_IMAGE:-{expected}}}" in (tmp_path / "new.kit" / "compose.yml").read_text()


@pytest.mark.parametrize(
    ("made_with", "option", "variable", "told"),
    [
        ("registry.example/x:7", "", "registry.example/x:9", "x:9, which kits name from now on in place of registry"),
        ("registry.example/x:7", "registry.example/x:8", "registry.example/x:9", ""),
        ("registry.example/x:7", "", "registry.example/x:7", ""),
        ("fedrebasin:0.0.9", "", f"fedrebasin:{version('fedrebasin')}", ""),
        ("registry.example/x:7", "", "", ""),
    ],
)
def test_an_image_of_the_environment_does_not_replace_another_unsaid(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    made_with: str,
    option: str,
    variable: str,
    told: str,
) -> None:
    server = enrolled(tmp_path, capsys, made_with)
    monkeypatch.setenv("FEDREBASIN_IMAGE", variable)
    done = renew(capsys, server, *(("--image", option) if option else ()))
    assert told in done.err
    assert bool(told) == ("FEDREBASIN_IMAGE" in done.err)


def test_in_containers_what_renew_said_of_the_image_stands_until_it_is_said_otherwise() -> None:
    services = yaml.safe_load((Path(__file__).parents[1] / "compose.yml").read_text())["services"]
    # Whoever does not set it says nothing to the operator's commands; the first start writes a default of its own.
    assert services["enrolment"]["environment"]["FEDREBASIN_IMAGE"] == "${FEDREBASIN_IMAGE:-}"
    default = f"${{FEDREBASIN_IMAGE:-fedrebasin:{version('fedrebasin')}}}"
    assert services["certificates"]["environment"]["FEDREBASIN_IMAGE"] == default


def test_a_renewed_kit_tells_of_the_runs_of_now_and_so_do_those_to_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = enrolled(tmp_path, capsys, "")
    before = renewed(capsys, server)
    (tmp_path / "run.toml").write_text("model = 'mlp'\nwidth = 16\n")
    options = ("--run-config", tmp_path / "run.toml", "--image", "registry.example/fedrebasin:8")
    told = renewed(capsys, server, *options)
    assert told.run == {"model": "mlp", "width": 16}
    assert told.architecture != before.architecture
    kept = [read_settings(each / "federation.toml", Federation) for each in (server, server / "operator")]
    assert [(each.run, each.image) for each in kept] == [(told.run, told.image)] * 2
    assert renewed(capsys, server) == told


def test_a_renewal_that_fails_leaves_the_federation_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = enrolled(tmp_path, capsys, "")
    before = (server / "federation.toml").read_bytes()
    assert run(capsys, "server", "renew", "nobody", "--image", "x", "--folder", server).code == 30
    (tmp_path / "run.toml").write_text("model = 'resnet21'")
    done = run(capsys, "server", "renew", "site-us", "--run-config", tmp_path / "run.toml", "--folder", server)
    assert "resnet21" in done.err
    assert (server / "federation.toml").read_bytes() == before


def test_a_kit_for_the_server_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = enrolled(tmp_path, capsys, "")
    before = (server / "proxy" / "proxy.crt").read_bytes()
    done = run(capsys, "server", "renew", "server", "--kit", tmp_path / "x", "--folder", server)
    assert done.code == OptionError.exit_code
    assert "x: proxy and SuperLink take no kit; leave it out, or name a site" in done.err
    assert (server / "proxy" / "proxy.crt").read_bytes() == before


def written_since(folder: Path, before: dict[Path, int]) -> set[str]:
    """The folders, as ``folder`` sees them, in which files were replaced."""
    now = {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    changed = (path for path, number in now.items() if before.get(path) != number)
    return {path.parent.relative_to(folder).as_posix() for path in changed}


def test_in_containers_all_that_the_operators_commands_write_is_on_a_volume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = enrolled(tmp_path, capsys, "")
    before = {path: path.stat().st_ino for path in server.rglob("*") if path.is_file()}
    renewed(capsys, server, "--image", "registry.example/fedrebasin:8")
    assert run(capsys, "server", "renew", "server", "--folder", server).code == 0
    written = written_since(server, before)
    assert written == {".", "proxy", "superlink", "issued", "operator"}
    compose = yaml.safe_load((Path(__file__).parents[1] / "compose.yml").read_text())
    volumes = [each.split(":") for each in compose["services"]["enrolment"]["volumes"]]
    mounted = {each[1] for each in volumes}
    for place in written:
        assert Path("/federation", place).as_posix() in mounted, place
    # Each beside the others' owner, so that none falls back on the mount point that the engine left.
    certificates = compose["services"]["certificates"]["volumes"]
    assert {each for each in compose["services"]["enrolment"]["volumes"] if "/federation" in each} <= set(certificates)


@pytest.mark.parametrize("name", ["site-us", "server"])
def test_settings_that_cannot_be_written_are_told_before_anything_is_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    server = enrolled(tmp_path, capsys, "")
    shutil.rmtree(server / "operator")
    # Not even root writes below a file.
    (server / "operator").write_text("")
    files = ("federation.toml", "sites.json", "proxy/proxy.crt")
    before = [(server / each).read_bytes() for each in files]
    kit = () if name == "server" else ("--kit", tmp_path / "new.kit")
    done = run(capsys, "server", "renew", name, *kit, "--image", "x", "--folder", server)
    assert done.code == 30
    assert f"{server / 'operator'}" in done.err
    assert "cannot be read or written" in done.err
    assert "run this as the folder's owner; in containers, as the service `enrolment`" in done.err
    assert [(server / each).read_bytes() for each in files] == before
    assert not (tmp_path / "new.kit").exists()


def test_the_membership_tells_what_the_site_can_try_beforehand() -> None:
    membership = membership_of(FEDERATION, "site-us", "1")
    assert isinstance(membership, Membership)
    assert membership.run == {"model": "mlp", "rounds": 2}
    assert len(membership.architecture) == 64


def test_an_address_without_a_port_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "server", "init", "--proxy", "127.0.0.1", "--folder", tmp_path / "federation")
    assert ran.code == SettingsError.exit_code
    words = "host:port, an IPv6 address in brackets, the port from 1 to 65535"
    assert f"setting 'proxy': expected {words}, got '127.0.0.1' (str)" in ran.err
    assert "listen" not in ran.err


@pytest.mark.parametrize(("options", "where"), [((), "0.0.0.0:9443"), (("--listen", "10.0.0.5:8443"), "10.0.0.5:8443")])
def test_the_proxy_listens_at_the_port_that_sites_dial_unless_another_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], where: str
) -> None:
    ran = run(capsys, "server", "init", "--proxy", "fl.example:9443", *options, "--folder", tmp_path / "server")
    assert ran.code == 0
    assert f"listen {where} ssl" in (tmp_path / "server" / "proxy" / "nginx.conf").read_text()


@pytest.mark.parametrize(
    ("port", "good"),
    [
        *(("1", True), ("443", True), ("59999", True), ("65535", True)),
        *(("0", False), ("65536", False), ("70000", False), ("99999", False), ("123456", False)),
    ],
)
def test_a_port_that_there_cannot_be_is_refused(tmp_path: Path, port: str, good: bool) -> None:
    (tmp_path / "federation.toml").write_text(f"proxy = 'fl.example.org:{port}'\nimage = ''\n")
    if good:
        assert host_of(read_settings(tmp_path / "federation.toml", Federation).proxy) == "fl.example.org"
        return
    with pytest.raises(SettingsError, match=f"the port from 1 to 65535, got 'fl.example.org:{port}'"):
        read_settings(tmp_path / "federation.toml", Federation)


def test_what_sites_must_have_and_how_long_certificates_are_good_can_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--least-samples", "30", "--certificate-days", "90", "--server-certificate-days", "200")
    done = run(capsys, "server", "init", "--proxy", "localhost:8443", *options, "--folder", tmp_path / "server")
    assert done.code == 0
    _, federation, _ = open_server(tmp_path / "server")
    told = (federation.least_samples, federation.certificate_days, federation.server_certificate_days)
    assert told == (30, 90, 200)
    lasts = read_certificate(tmp_path / "server" / "proxy" / "proxy.crt").not_valid_after_utc
    assert 199 < days_left(lasts) <= 200


def test_a_host_name_may_be_longer_than_a_common_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = "fl-0123456789abcdef.elb." + "a-region-with-a-long-name." * 3 + "example.com"
    done = run(capsys, "server", "init", "--proxy", f"{host}:8443", "--name", "x" * 54, "--folder", tmp_path / "server")
    assert done.code == 0, done.err
    certificate = read_certificate(tmp_path / "server" / "proxy" / "proxy.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host, "proxy", "localhost"]
    assert certificate.subject.rfc4514_string() == "CN=proxy"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--name", "x" * 55, "setting 'name': expected letters, digits, '.', '_' and '-', at most 54, the first"),
        ("--certificate-days", "3651", "setting 'certificate-days': expected less than or equal to 3650, got 3651.0"),
        ("--certificate-days", "1e300", "setting 'certificate-days': expected less than or equal to 3650"),
        ("--server-certificate-days", "nan", "setting 'server-certificate-days': expected"),
        ("--server-certificate-days", "inf", "setting 'server-certificate-days': expected"),
    ],
)
def test_what_no_certificate_can_say_is_refused_before_a_file_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    done = run(capsys, "server", "init", "--proxy", "localhost:8443", option, value, "--folder", tmp_path / "server")
    assert done.code == SettingsError.exit_code
    assert told in done.err
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize("mounted", [False, True])
def test_a_federation_that_was_not_made_whole_is_not_in_the_way_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: bool
) -> None:
    folder = ServerFolder(tmp_path / "server")
    if mounted:
        folder.proxy.mkdir(parents=True)
        (folder.path / "notes").write_text("mine")

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cli.enrolment.server.publish", fails)
        with pytest.raises(KeyboardInterrupt):
            make_server(folder, FEDERATION)
    left = sorted(each.name for each in folder.path.rglob("*")) if folder.path.exists() else []
    assert left == (["notes", "proxy"] if mounted else [])
    make_server(folder, FEDERATION)


def test_units_name_the_command_by_its_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root has no units; tests/deployment/test_systemd.py makes those of others")
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    assert run(capsys, "site", "configure", "--systemd", tmp_path, "--user", ME, "--folder", site.path).code == 0
    unit = (tmp_path / "fedrebasin-supernode.service").read_text()
    assert f"ExecStart={Path(sys.executable).parent / 'fedrebasin'} site run" in unit


def test_whoever_renews_a_kit_is_not_asked_to_compare_the_key_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = enrolled(tmp_path, capsys, "")
    done = run(capsys, "server", "renew", "site-us", "--kit", tmp_path / "new.kit", "--folder", server)
    assert done.code == 0
    assert f"fedrebasin site install {tmp_path / 'new.kit'} --fingerprint SHA256:" in done.out
    assert "Compare" not in done.out

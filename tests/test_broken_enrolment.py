"""What is broken off, finds the disk full, or is done twice at once leaves a federation and a site whole."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from cryptography import x509

from cli.enrolment import kits, requests, server
from cli.enrolment.authority import Authority, new_authority, read_certificate
from cli.enrolment.errors import EnrolmentError
from cli.enrolment.keys import PrivateKey, new_key, private_pem, read_private
from cli.enrolment.kits import install_kit
from cli.enrolment.layout import ServerFolder, SiteFolder
from cli.enrolment.register import Register, write_register
from cli.enrolment.requests import make_request, read_request
from cli.enrolment.server import make_server, open_server, sign_servers
from strategies.files import DiskError
from tests.commands import run
from tests.test_enrolment import AUTHORITY, FEDERATION, entry_with, joined

# Of a curve that this program has never heard of (SM2), made with `openssl req -new`.
FOREIGN_CURVE = """-----BEGIN CERTIFICATE REQUEST-----
MIHMMHQCAQAwEjEQMA4GA1UEAwwHc2l0ZS11czBZMBMGByqGSM49AgEGCCqBHM9V
AYItA0IABJ+MgucRQxf7qym+Y6KWk9rU7BzbEY6g35ZrgAuA7bm5ATOngdMd6rUC
nnHLWtxLhZuhLRnlYclKybuk/ND7hhGgADAKBggqgRzPVQGDdQNIADBFAiEAgzoL
RjEEdcLi7E+981KJwAkglgjh5pibis7DAffGNlsCIEK4IFTVa1uaXpu+A3uk2nFz
HGzT9WPw6NnEuTvKGCLR
-----END CERTIFICATE REQUEST-----
"""
PAGE_BYTES = 4096
KEY = ("inside.key",)


def fill(disk: Path, pages: int) -> Path:
    """Leaves room for that many small files, and returns what takes the rest."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - pages * PAGE_BYTES))
    return filler


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below ``folder``, but for what fills the disk."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "filler")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_of_two_who_make_a_federation_at_once_one_is_told_and_the_others_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = ServerFolder(tmp_path / "server"), list[str]()

    def second() -> None:
        try:
            make_server(folder, FEDERATION)
        except EnrolmentError as error:
            told.append(str(error))

    beside = threading.Thread(target=second)

    def slowly(name: str) -> Authority:
        if not beside.ident:
            beside.start()
            # It waits for the first, so that this is not its end; without a lock it would be done by then.
            beside.join(timeout=1)
        return new_authority(name)

    monkeypatch.setattr(server, "new_authority", slowly)
    make_server(folder, FEDERATION)
    beside.join()
    assert [" ".join(each.split()[1:5]) for each in told] == ["exists: this folder holds"]
    _, _, authority = open_server(folder.path)
    assert read_certificate(folder.proxy / "ca.crt") == authority.certificate


@pytest.mark.parametrize("pages", range(6))
def test_where_the_servers_new_keys_do_not_fit_the_old_ones_stay(small_disk: Path, pages: int) -> None:
    folder = ServerFolder(small_disk / "server")
    make_server(folder, FEDERATION)
    before, (_, federation, authority) = files_of(small_disk), open_server(folder.path)
    filler = fill(small_disk, pages)
    with pytest.raises(DiskError, match="No space left"):
        sign_servers(folder, federation, authority)
    assert files_of(small_disk) == before
    filler.unlink()
    sign_servers(folder, federation, authority)
    for place, name in ((folder.proxy, "proxy"), (folder.superlink, "superlink")):
        certificate = read_certificate(place / f"{name}.crt")
        assert certificate.public_key() == read_private(place / f"{name}.key").public_key()
        assert read_certificate(folder.issued / f"{name}.crt") == certificate
        assert (place / f"{name}.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pages", range(3))
def test_a_request_that_does_not_fit_is_not_in_the_way_of_the_next(small_disk: Path, pages: int) -> None:
    site = SiteFolder(small_disk / "site")
    site.keys.mkdir(parents=True)
    filler = fill(small_disk, pages)
    with pytest.raises(DiskError, match="No space left"):
        make_request(site, "site-us")
    assert files_of(small_disk) == {}
    filler.unlink()
    assert read_request(make_request(site, "site-us")).key == read_private(site.key).public_key()


@pytest.mark.parametrize(
    "left", [(), ("inside.key",), ("inside.key", "superexec.secret"), ("inside.key", "inside.crt")]
)
def test_an_installation_that_was_broken_off_is_made_good_by_the_next(tmp_path: Path, left: tuple[str, ...]) -> None:
    site, kit, told = joined(tmp_path)
    install_kit(kit, site, told)
    for path in site.inside.iterdir():
        if path.name not in left:
            path.unlink()
    install_kit(kit, site, told)
    certificate = read_certificate(site.inside / "inside.crt")
    assert certificate.public_key() == read_private(site.inside / "inside.key").public_key()
    certificate.verify_directly_issued_by(read_certificate(site.inside / "inside-ca.crt"))
    assert len((site.inside / "superexec.secret").read_bytes()) > 40


@pytest.mark.parametrize("pages", range(4))
def test_an_installation_on_a_full_disk_leaves_no_half_of_a_secret(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    site, kit, told = joined(tmp_path)
    shutil.copytree(site.path, small_disk / "site")
    site, made = SiteFolder(small_disk / "site"), kits.inside_certificate

    def then_full(names: list[str]) -> tuple[PrivateKey, x509.Certificate, x509.Certificate]:
        fill(small_disk, pages)
        return made(names)

    with monkeypatch.context() as patched:
        patched.setattr(kits, "inside_certificate", then_full)
        with pytest.raises(DiskError, match="No space left"):
            install_kit(kit, site, told)
    assert list(site.inside.iterdir()) == []
    (small_disk / "filler").unlink()
    install_kit(kit, site, told)


def test_what_is_installed_is_what_was_compared_though_the_kit_is_changed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, kit, told = joined(tmp_path)
    good = (kit / "compose.yml").read_bytes()

    def changed_meanwhile(path: Path) -> PrivateKey:
        (kit / "compose.yml").write_text("another\n")
        return read_private(path)

    monkeypatch.setattr(kits, "read_private", changed_meanwhile)
    install_kit(kit, site, told)
    assert (kit / "compose.yml").read_text() == "another\n"
    assert (site.path / "compose.yml").read_bytes() == good


def test_a_key_is_on_the_disk_before_anybody_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = list[bytes](), os.fsync

    def noted(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}")
        if path.is_file():
            synced.append(path.read_bytes())
        sync(number)

    key = new_key()
    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr(requests, "new_key", lambda: key)
    make_request(SiteFolder(tmp_path), "site-us")
    assert private_pem(key) in synced


def test_a_request_with_a_key_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(FOREIGN_CURVE)
    with pytest.raises(EnrolmentError, match="no certificate request can be read"):
        read_request(tmp_path / "x")


def test_who_may_not_write_the_list_of_sites_is_told_that_nobody_was_shut_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ServerFolder(tmp_path)
    make_server(folder, FEDERATION)
    entry = entry_with(AUTHORITY.sign_site(new_key().public_key(), "site-us", 1))
    write_register(folder.register, Register(sites=[entry]))
    # Not even root writes in place of a folder.
    folder.register.with_name(".sites.json.partial").mkdir()
    done = run(capsys, "server", "revoke", "site-us", "--folder", folder.path)
    assert done.code == 30
    assert "cannot be read or written: Is a directory; run this as the folder's owner" in done.err


def test_nobody_else_can_write_what_is_made_whatever_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        site, kit, told = joined(tmp_path)
        install_kit(kit, site, told)
        make_server(ServerFolder(tmp_path / "server"), FEDERATION)
    finally:
        os.umask(before)
    made = [*site.path.rglob("*"), *(tmp_path / "server").rglob("*"), *kit.rglob("*"), kit]
    assert [path for path in made if path.stat().st_mode & 0o022] == []

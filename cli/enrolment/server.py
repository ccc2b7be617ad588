"""The server's folder: made once, and brought up to date whenever a site is approved, renewed or revoked."""

import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from cli.enrolment.authority import Authority, keep_authority, new_authority, pem, read_authority
from cli.enrolment.errors import EnrolmentError
from cli.enrolment.files import (
    alone_in,
    private_folder,
    read_settings,
    replace_together,
    write_private,
    write_public,
)
from cli.enrolment.keys import new_key, private_pem
from cli.enrolment.layout import ServerFolder
from cli.enrolment.register import Register, write_register
from cli.enrolment.settings import Federation, host_of, tls_name
from cli.enrolment.templates import render


def make_server(folder: ServerFolder, federation: Federation) -> None:
    """Makes the authority, the certificates of SuperLink and proxy, the secret of the SuperExec, and an empty list.

    Raises `EnrolmentError` where there is a federation: its sites would all have to join anew. What fails leaves
    nothing that would be in the way of the next try.
    """
    was_there = folder.path.exists()
    if not was_there:
        # Another may be others' too, or a volume; each folder below is the federation's own.
        private_folder(folder.path)
    # Of two at once the second would fail at the first one's key, and take back all that the first had made.
    with alone_in(folder.path):
        if folder.settings.exists():
            raise EnrolmentError(
                f"{folder.settings} exists: this folder holds a federation already. `fedrebasin server approve` lets "
                "sites in, and `renew` writes their kits anew; for another federation name another --folder"
            )
        with _removed_on_failure(folder.path, was_there):
            _make(folder, federation)


@contextmanager
def _removed_on_failure(path: Path, was_there: bool) -> Generator[None]:
    """Takes back what the block made below ``path`` where it fails; in containers the folders there are volumes."""
    before = {path, *path.rglob("*")} if was_there else set[Path]()
    try:
        yield
    except BaseException:
        # The deepest first, so that each folder is empty when its turn comes.
        for made in sorted({path, *path.rglob("*")} - before, reverse=True):
            with suppress(OSError):
                made.rmdir() if made.is_dir() else made.unlink()
        raise


def _make(folder: ServerFolder, federation: Federation) -> None:
    authority = new_authority(f"{federation.name} authority")
    keep_authority(authority, folder.path)
    for name in ("proxy", "superlink", "superexec", "operator", "issued"):
        private_folder(folder.path / name)
        write_public(folder.path / name / "ca.crt", pem(authority.certificate))
    secret = secrets.token_urlsafe(32).encode()
    for place in (folder.superlink, folder.superexec):
        write_private(place / "superexec.secret", secret)
    sign_servers(folder, federation, authority)
    publish(folder, federation, authority, Register())
    # Last, since its presence says that the folder is whole.
    write_settings(folder, federation)


def write_settings(folder: ServerFolder, federation: Federation) -> None:
    """Writes ``federation.toml``: for who submits runs, and for the server itself, there last."""
    put_settings(folder, tomli_w.dumps(federation.model_dump(by_alias=True)).encode())


def put_settings(folder: ServerFolder, settings: bytes) -> None:
    """Replaces both copies of ``federation.toml`` by ``settings``."""
    write_public(folder.operator / "federation.toml", settings)
    write_public(folder.settings, settings)


def sign_servers(folder: ServerFolder, federation: Federation, authority: Authority) -> None:
    """New keys and certificates for the SuperLink and the proxy, in place of those there are: of both, or of none."""
    local = ("localhost", "127.0.0.1")
    keys, certificates = dict[Path, bytes](), dict[Path, bytes]()
    for place, name in ((folder.superlink, "superlink"), (folder.proxy, "proxy")):
        address = federation.superlink if name == "superlink" else federation.proxy
        key = new_key()
        names = list(dict.fromkeys((host_of(address), name, *local)))
        certificate = authority.sign_server(key.public_key(), name, names, federation.server_certificate_days)
        keys[place / f"{name}.key"] = private_pem(key)
        certificates |= dict.fromkeys((place / f"{name}.crt", folder.issued / f"{name}.crt"), pem(certificate))
    with alone_in(folder.superlink):
        replace_together(keys, certificates)


def publish(folder: ServerFolder, federation: Federation, authority: Authority, register: Register) -> None:
    """Writes the list of sites, and from it what the proxy goes by; `deploy/proxy/serve.sh` sees the change."""
    write_register(folder.register, register)
    names = sorted({each.name for each in register.sites if each.status == "enrolled"})
    # As patterns, since nginx compares plain text without regard to case.
    allowed = "".join(f'"~^CN={re.escape(name)}$" "{name}";\n' for name in names)
    configuration = render(
        "proxy/nginx.conf.j2",
        listen=federation.listen,
        superlink=federation.superlink,
        superlink_name=tls_name(federation.superlink, "superlink"),
    )
    write_public(folder.proxy / "nginx.conf", configuration)
    write_public(folder.proxy / "sites.map", allowed.encode())
    write_public(folder.proxy / "revoked.crl", pem(authority.revocations(register.revoked_serials())))


def open_server(path: Path) -> tuple[ServerFolder, Federation, Authority]:
    """The server's folder, its settings and its authority."""
    folder = ServerFolder(path).check()
    return folder, read_settings(folder.settings, Federation), read_authority(path)


def days_left(moment: datetime) -> float:
    """Days until ``moment``; negative once it is past."""
    return (moment - datetime.now(UTC)).total_seconds() / 86400

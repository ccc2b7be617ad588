"""A kit: the folder that a site gets back. It holds no secret; its fingerprint tells whether it came whole."""

import hashlib
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import tomli_w
from cryptography import x509

from cli.enrolment.authority import certificate_in, inside_certificate, pem
from cli.enrolment.errors import KitError
from cli.enrolment.files import private_folder, read_settings, replace_together, settings_in, write_public
from cli.enrolment.keys import digest, fingerprint, private_pem, read_private
from cli.enrolment.layout import SiteFolder
from cli.enrolment.settings import Federation, Membership, SiteSettings, image_of_now
from cli.enrolment.templates import render
from strategies.settings import parse_settings

# What a site may change is written when there is none yet, so that a renewed kit leaves it as it is.
OF_THE_SITE = ("site.toml",)
# Of which the first two are secret.
INSIDE = ("inside.key", "superexec.secret", "inside.crt", "inside-ca.crt")
FILES = ("membership.toml", "site.toml", "compose.yml", "ca.crt", "site.crt")


def membership_of(federation: Federation, name: str, node_id: str) -> Membership:
    """What the federation says to the site ``name``."""
    # It takes torch, which a site that installs a kit need not wait for.
    from models import Architecture, build
    from models.fingerprint import fingerprint as architecture_fingerprint

    settings = parse_settings(federation.run)
    return Membership(
        federation=federation.name,
        site=name,
        proxy=federation.proxy,
        node_id=node_id,
        version=version("fedrebasin"),
        flower=version("flwr"),
        architecture=architecture_fingerprint(build(Architecture(*settings.network), settings.seed).state_dict()),
        least_samples=federation.least_samples,
        image=image_of_now(federation.image),
        run=federation.run,
    )


@contextmanager
def kit_folder(path: Path) -> Generator[Path]:
    """An empty folder that becomes ``path`` at the end of the block; where that fails, what was there is there still.

    Raises `KitError` before the block where ``path`` is something else than a kit, or cannot be written or replaced: a
    site that is let in must not be without its kit.
    """
    path = path.resolve()
    if path.exists() and (not path.is_dir() or {each.name for each in path.iterdir()} - set(FILES)):
        raise KitError(f"{path}: there is something that is no kit; name another place with --kit")
    if path == Path.cwd():
        # Whoever is in it would go on in one that is gone.
        raise KitError(f"{path}: a kit cannot take the place of the current folder; name one in it with --kit")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    made, before = scratch / "made", scratch / "before"
    try:
        made.mkdir()
        _try_to_move(path, before)
        yield made
        made.chmod(0o755)
        if path.exists():
            path.rename(before)
        made.rename(path)
    finally:
        if before.exists() and not path.exists():
            before.rename(path)
        shutil.rmtree(scratch, ignore_errors=True)


def _try_to_move(path: Path, aside: Path) -> None:
    """Raises `KitError` where what is at ``path`` cannot be moved, as a folder that is mounted there."""
    if path.exists():
        try:
            path.rename(aside).rename(path)
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> KitError:
    return KitError(f"{path}: a kit cannot be written here: {error.strerror}; name another place with --kit")


def write_kit(folder: Path, membership: Membership, authority: x509.Certificate, certificate: x509.Certificate) -> str:
    """Writes a kit and returns its fingerprint."""
    write_public(folder / "membership.toml", tomli_w.dumps(membership.model_dump(by_alias=True)).encode())
    write_public(folder / "site.toml", render("site/site.toml.j2", data=membership.run.get("data", "")))
    write_public(folder / "compose.yml", render("site/compose.yml.j2", site=membership.site, image=membership.image))
    write_public(folder / "ca.crt", pem(authority))
    write_public(folder / "site.crt", pem(certificate))
    return kit_fingerprint(folder)


def kit_fingerprint(path: Path) -> str:
    """SHA-256 over the names and contents of the kit's files. Raises `KitError` where one is missing or foreign."""
    return _fingerprint(_read_kit(path))


def _read_kit(path: Path) -> Mapping[str, bytes]:
    """The kit's files. Raises `KitError` where one is missing or foreign."""
    if not path.is_dir():
        raise KitError(f"{path}: no such folder: expected the kit that `fedrebasin server approve` made")
    found = sorted(each.name for each in path.iterdir())
    if found != sorted(FILES):
        raise KitError(
            f"{path}: not a kit: expected the files {', '.join(sorted(FILES))}; got {', '.join(found) or 'none'}"
        )
    return {name: (path / name).read_bytes() for name in sorted(FILES)}


def _fingerprint(kit: Mapping[str, bytes]) -> str:
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in kit.items()]
    return digest("".join(lines).encode())


def install_kit(kit: Path, folder: SiteFolder, expected: str) -> Membership:
    """Puts a kit into the site's folder, beside its keys; returns what the federation says to the site.

    Raises `KitError` when the kit has not the fingerprint that was told, or its certificate is not for this site's key.
    """
    # Once: where others may write, what is looked at and what is installed could be two kits.
    files = _read_kit(kit)
    if expected != (got := _fingerprint(files)):
        raise KitError(
            f"{kit}: the fingerprint is {got}, expected {expected}. Do not use this kit: it was changed on its way, or "
            "is another one. Compare once more with the server's operator, on another way than that of the kit"
        )
    if not folder.key.is_file():
        raise KitError(f"{folder.path}: no keys/site.key: name with --folder the one in which `site request` was made")
    key = read_private(folder.key).public_key()
    if certificate_in(files["site.crt"], kit / "site.crt").public_key() != key:
        raise KitError(
            f"{kit}: its certificate is for another key than this site's, {fingerprint(key)}. Ask for a kit for the "
            f"request in {folder.path}"
        )
    membership = settings_in(files["membership.toml"], kit / "membership.toml", Membership)
    for name, content in files.items():
        if name not in OF_THE_SITE or not (folder.path / name).exists():
            write_public(folder.path / name, content)
    _make_inside(folder)
    private_folder(folder.state)
    private_folder(folder.state / "no-data")
    folder.code.mkdir(mode=0o755, exist_ok=True)
    write_environment(folder)
    return membership


def write_environment(folder: SiteFolder) -> Path:
    """Writes ``.env``, from which `docker compose` takes what ``site.toml`` says, and returns it."""
    settings = read_settings(folder.check().settings, SiteSettings)
    owner = folder.keys.stat()
    lines = {
        # The keys are their owner's alone, so the containers run as their owner, whoever says this.
        "FEDREBASIN_USER": f"{owner.st_uid}:{owner.st_gid}",
        "FEDREBASIN_DATA": shlex.quote(settings.data_folder or "./state/no-data"),
        "FEDREBASIN_MEMORY": settings.memory,
    }
    return write_public(folder.path / ".env", "".join(f"{key}={value}\n" for key, value in lines.items()).encode())


def _make_inside(folder: SiteFolder) -> None:
    """Key, certificate and secret for what talks inside the site; kept when a kit is installed again."""
    place = private_folder(folder.inside)
    if all((place / name).exists() for name in INSIDE):
        return
    key, certificate, authority = inside_certificate(["localhost", "127.0.0.1", "supernode", "sidecar"])
    made = (private_pem(key), secrets.token_urlsafe(32).encode(), pem(certificate), pem(authority))
    files = [(place / name, content) for name, content in zip(INSIDE, made, strict=True)]
    replace_together(dict(files[:2]), dict(files[2:]))

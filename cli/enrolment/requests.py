"""A site's request to join: a certificate request (PKCS #10), signed with the key that stays at the site."""

from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from cli.enrolment.authority import pem
from cli.enrolment.errors import EnrolmentError
from cli.enrolment.files import write_private, write_public
from cli.enrolment.keys import PublicKey, fingerprint, new_key, private_pem, private_ssh, read_private
from cli.enrolment.layout import SiteFolder
from strategies.names import is_site_name
from strategies.settings import NAME, pattern_words

# What `server renew` calls the server itself.
RESERVED = "server"


class SiteRequest(NamedTuple):
    """What a request asks for: a certificate for ``key`` under ``name``."""

    name: str
    key: PublicKey


def make_request(folder: SiteFolder, name: str) -> Path:
    """Makes the site's key and, beside it, the request to send to the server's operator; returns the request.

    Raises `EnrolmentError` where the folder has a key already: who loses a key loses the site's identity.
    """
    check_name(name)
    if folder.key.exists():
        raise EnrolmentError(
            f"{folder.key} exists: this folder has a key already. Name another --folder; to change a site's key, "
            "see 'Keys' in docs/server-guide.md"
        )
    write_private(folder.key, private_pem(new_key()))
    try:
        return write_request(folder, name)
    except BaseException:
        # Nobody has heard of this key yet, and it would be in the way of the next try.
        for path in (folder.key, folder.node_key):
            path.unlink(missing_ok=True)
        raise


def write_request(folder: SiteFolder, name: str) -> Path:
    """Writes the request of the key that the folder has, and the key as Flower reads it where that is missing."""
    key = read_private(folder.key)
    if not folder.node_key.exists():
        write_private(folder.node_key, private_ssh(key))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, SHA384())
    )
    return write_public(folder.path / f"{name}.request.pem", pem(request))


def read_request(path: Path) -> SiteRequest:
    """The request in ``path``. Raises `EnrolmentError` when it is none, or not signed by the key that it names."""
    try:
        request = x509.load_pem_x509_csr(path.read_bytes())
        key, is_valid = request.public_key(), request.is_signature_valid
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"{path}: no certificate request can be read: {error}") from error
    if not is_valid:
        raise EnrolmentError(f"{path}: the signature is not that of the key in it: ask the site for the file again")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EnrolmentError(f"{path}: expected a key on the curve P-384; make it with `fedrebasin site request`")
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    check_name(name)
    return SiteRequest(name, key)


def check_name(name: str) -> None:
    """Raises `EnrolmentError` for a name that could not be a label and a file name."""
    if name == RESERVED or not is_site_name(name):
        raise EnrolmentError(
            f"site name {name!r}: expected {pattern_words[NAME]}, and not {RESERVED!r} or a word that means something "
            "else in a run, such as merged, reference or config, or NAME.corrected"
        )


def compare(expected: str, key: PublicKey, what: str) -> None:
    """Raises `EnrolmentError` unless ``key`` has the fingerprint that was told."""
    if expected and expected != fingerprint(key):
        raise EnrolmentError(
            f"{what}: its key has the fingerprint {fingerprint(key)}, expected {expected}. Do not go on: somebody may "
            "have changed the file on its way. Ask its sender again, on another way"
        )

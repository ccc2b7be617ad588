"""The federation's certificate authority: what it signs, and what it takes back."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.enrolment.errors import EnrolmentError
from cli.enrolment.files import write_private, write_public
from cli.enrolment.keys import PrivateKey, PublicKey, new_key, private_pem, read_private
from cli.output import warn

AUTHORITY_DAYS = 3650
# A site whose clock is a little behind must not find its new certificate not yet valid.
BACKDATED = timedelta(minutes=5)
SITE_URI = "urn:fedrebasin:site:"


@dataclass(frozen=True)
class Authority:
    """The federation's own certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    def sign_server(self, key: PublicKey, role: str, names: Iterable[str], days: float) -> x509.Certificate:
        """A certificate for a server that is reached by any of ``names``: host names or IP addresses.

        ``role`` is its common name, which nobody looks at and which holds 64 letters: a host name may be longer.
        """
        return self._sign(key, role, [_general_name(name) for name in names], ExtendedKeyUsageOID.SERVER_AUTH, days)

    def sign_site(self, key: PublicKey, name: str, days: float) -> x509.Certificate:
        """A certificate with which the site ``name`` may call, but not serve."""
        uri = x509.UniformResourceIdentifier(SITE_URI + name)
        return self._sign(key, name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def revocations(self, revoked: Iterable[tuple[int, datetime]]) -> x509.CertificateRevocationList:
        """The list of serial numbers that are no longer good, and since when. It is good as long as the authority."""
        end = self.certificate.not_valid_after_utc
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(min(datetime.now(UTC), end) - BACKDATED)
            .next_update(end)
        )
        for serial, since in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, SHA384())

    def _sign(
        self, key: PublicKey, name: str, names: list[x509.GeneralName], purpose: x509.ObjectIdentifier, days: float
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        # What outlived the authority would be refused from its end on all the same, and tell another date until then.
        last = self.certificate.not_valid_after_utc
        end = min(now + timedelta(days=days), last)
        if now + timedelta(days=days) - end > timedelta(days=1):
            warn(
                f"the certificate of {name!r} is good until {end:%Y-%m-%d} and not for {days:g} days: the federation's "
                "authority ends then, and with it all that it signed; see 'Keys' in docs/server-guide.md"
            )
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, SHA384())
        )


def new_authority(name: str, days: float = AUTHORITY_DAYS) -> Authority:
    """An authority that signs itself, good for ``days``."""
    key = new_key()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signature=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA384())
    )
    return Authority(certificate, key)


def keep_authority(authority: Authority, folder: Path) -> None:
    """Writes ``ca.key`` and ``ca.crt``."""
    write_private(folder / "ca.key", private_pem(authority.key))
    write_public(folder / "ca.crt", pem(authority.certificate))


def read_authority(folder: Path) -> Authority:
    """What `keep_authority` wrote."""
    return Authority(read_certificate(folder / "ca.crt"), read_private(folder / "ca.key"))


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file. Raises `EnrolmentError` when there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EnrolmentError(f"{path}: no certificate can be read: {error}") from error
    return certificate_in(content, path)


def certificate_in(content: bytes, path: Path) -> x509.Certificate:
    """The certificate that was read from ``path``. Raises `EnrolmentError` when it is none."""
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise EnrolmentError(f"{path}: no certificate can be read: {error}") from error


def pem(signed: x509.Certificate | x509.CertificateRevocationList | x509.CertificateSigningRequest) -> bytes:
    """``signed`` as a file holds it."""
    return signed.public_bytes(Encoding.PEM)


def inside_certificate(names: list[str]) -> tuple[PrivateKey, x509.Certificate, x509.Certificate]:
    """A key, its certificate, and the authority that signed it: for what talks inside one site only.

    The authority's own key is forgotten at once, so that it signs nothing else.
    """
    authority, key = new_authority("inside"), new_key()
    return key, authority.sign_server(key.public_key(), "inside", names, AUTHORITY_DAYS - 1), authority.certificate


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        key_cert_sign=not signature,
        crl_sign=not signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

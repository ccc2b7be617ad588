"""Checks of the site's configuration, its certificate and its key, without a network."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cli.enrolment.authority import SITE_URI, read_certificate
from cli.enrolment.keys import fingerprint, read_private
from cli.enrolment.parts import check_paths
from cli.enrolment.server import days_left
from cli.preflight.finding import Problem, Subject

LEAST_DAYS = 14
RENEW = "ask the server's operator for `fedrebasin server renew {site}`, and install the kit"


def configuration(subject: Subject) -> str:
    """Whether both files of settings can be read, and the run's settings in them, and every path is whole."""
    if not subject.settings.data:
        raise Problem(f"{subject.folder.settings}: data is empty", "say there where the samples are")
    check_paths(subject.settings, subject.folder.settings)
    return f"{subject.membership.site}, data {subject.settings.data!r}, network {subject.run.model}"


def chain(subject: Subject) -> str:
    """Whether the federation's authority signed the site's certificate, for its key, and it is good now."""
    certificate = read_certificate(subject.folder.certificate)
    _not_yet(certificate)
    authority = read_certificate(subject.folder.authority)
    _signed_by(authority, certificate, subject)
    store = Store([authority])
    verifier = PolicyBuilder().store(store).time(datetime.now(UTC)).build_client_verifier()
    try:
        verifier.verify(certificate, [])
    except VerificationError as error:
        raise Problem(f"{subject.folder.certificate}: {error}", RENEW.format(site=subject.membership.site)) from error
    key = read_private(subject.folder.key).public_key()
    if certificate.public_key() != key:
        raise Problem(
            f"{subject.folder.certificate} is for another key than {subject.folder.key}, {fingerprint(key)}",
            "install the kit that was made for this folder's request",
        )
    return f"signed by {certificate.issuer.rfc4514_string()}"


def _signed_by(authority: x509.Certificate, certificate: x509.Certificate, subject: Subject) -> None:
    """Raises `Problem` where another authority signed the certificate, of which a verifier only says that it failed."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Problem(
            f"{subject.folder.certificate} was not signed by the authority in {subject.folder.authority}",
            "install the kit again, whole: its files belong together; if it says the same then, ask the server's "
            "operator for a new kit, and compare its fingerprint",
        ) from error


def name(subject: Subject) -> str:
    """Whether the certificate's names (SAN) are the site's."""
    extension = read_certificate(subject.folder.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    names = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    expected = SITE_URI + subject.membership.site
    if names != [expected]:
        raise Problem(
            f"the certificate is for {', '.join(names)}, membership.toml says {expected}",
            "install the kit again, whole: its files belong together",
        )
    return expected


def validity(subject: Subject) -> str:
    """Whether the certificate is good for some time to come."""
    certificate = read_certificate(subject.folder.certificate)
    _not_yet(certificate)
    days = days_left(certificate.not_valid_after_utc)
    if days < LEAST_DAYS:
        raise Problem(f"{days:.1f} days left {_by_this_clock()}", RENEW.format(site=subject.membership.site))
    return f"{days:.0f} days left"


def _not_yet(certificate: x509.Certificate) -> None:
    """Raises `Problem` when the certificate is not good yet: a clock that is behind looks like that."""
    if certificate.not_valid_before_utc > datetime.now(UTC):
        raise Problem(
            f"the certificate is good from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, which is not yet "
            f"{_by_this_clock()}",
            "set the clock: `timedatectl set-ntp true`",
        )


def _by_this_clock() -> str:
    return f"by this machine's clock, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

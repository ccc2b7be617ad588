"""What to do where the proxy is not reached: each way of a network to keep a site from it looks otherwise."""

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from cli.enrolment.settings import host_of

UNOPENED = (
    "let TLS to {proxy} through unopened: the sidecar goes through no HTTP proxy, and trusts the federation alone"
)
# OpenSSL's: nobody that is trusted has signed it, in five ways of failing to find that.
UNSIGNED = (7, 18, 19, 20, 21)
OTHER_AUTHORITY = (
    "the certificate that {proxy} shows was not signed by the authority in this site's ca.crt. Compare what `openssl "
    "x509 -noout -fingerprint -sha256 -in ca.crt` says here and in the server's folder: if it differs, ask the "
    f"server's operator for a new kit; if not, a firewall opens TLS: {UNOPENED}"
)
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


@dataclass(frozen=True)
class Fix:
    """What to do at errors of these kinds."""

    kinds: tuple[type[BaseException], ...]
    advice: str


# The first that fits.
FIXES = (
    Fix(
        (socket.gaierror,),
        "have this machine's DNS, and that of containers, know {host} (`getent hosts {host}`); if it is misspelt, ask "
        "the server's operator",
    ),
    Fix(
        (ssl.SSLCertVerificationError,),
        "the certificate that {proxy} shows is not the federation's proxy's, or not good now: set the clock; then ask "
        "the server's operator",
    ),
    Fix(
        (ConnectionRefusedError,),
        "a firewall rejects outgoing TCP to {proxy}: open it; if it is open, ask the server's operator whether the "
        "proxy is up",
    ),
    Fix(
        (httpx.TimeoutException,),
        "a firewall drops what goes out: open outgoing TCP to {proxy}, and let TLS there through unopened; then ask "
        "the server's operator",
    ),
    Fix(
        (ssl.SSLError, ConnectionResetError, httpx.RemoteProtocolError),
        f"something on the way, such as a firewall, answers or breaks off in place of the proxy: {UNOPENED}",
    ),
)
OTHERWISE = "open outgoing TCP to {proxy} in the firewall; nothing on the way may open TLS; then ask the operator"


def what_to_do(error: httpx.TransportError, proxy: str) -> str:
    """The advice for ``error``, met on the way to ``proxy``, HOST:PORT."""
    causes = list(_causes(error))
    if any(isinstance(each, OSError) and each.errno in NO_ROUTE for each in causes):
        advice = "there is no route to {host} from here: look at this machine's network; then open TCP to {proxy}"
    elif any(isinstance(each, ssl.SSLCertVerificationError) and each.verify_code in UNSIGNED for each in causes):
        advice = OTHER_AUTHORITY
    else:
        found = (fix.advice for fix in FIXES if any(isinstance(each, fix.kinds) for each in causes))
        advice = next(found, OTHERWISE)
    return advice.format(proxy=proxy, host=host_of(proxy))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

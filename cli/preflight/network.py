"""Checks over the network, with the site's own certificate."""

import socket
import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import httpx

from cli.enrolment.settings import host_of
from cli.preflight.finding import Problem, Subject
from cli.preflight.unreached import what_to_do
from models import Architecture, build

MOST_SKEW_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
# Where a SuperLink listens unless told otherwise, with its control and runtime APIs.
SUPERLINK_PORT = 8000
FORBIDDEN = ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/openapi.json", "/metrics")
UPLOAD_PATH = "/v1/fleet/push-object"
TRIAL_BYTES = 1 << 20


def identity(subject: Subject) -> ssl.SSLContext:
    """TLS with the site's certificate, that trusts the federation's authority alone."""
    context = ssl.create_default_context(cafile=str(subject.folder.authority))
    context.load_cert_chain(subject.folder.certificate, subject.folder.key)
    return context


@contextmanager
def dialled(subject: Subject) -> Generator[httpx.Client]:
    """A client of the proxy. Raises `Problem` when it cannot be reached, or one end does not know the other."""
    context = identity(subject)
    proxy = subject.membership.proxy
    try:
        # A sidecar dials by itself, so no proxy of the environment's.
        with httpx.Client(
            base_url=f"https://{proxy}", verify=context, timeout=TIMEOUT_SECONDS, trust_env=False
        ) as client:
            yield client
    except httpx.TransportError as error:
        raise Problem(f"{proxy}: {error}", what_to_do(error, proxy)) from error


def reachable(subject: Subject) -> str:
    """Whether the proxy answers, lets the site in, and reaches the SuperLink."""
    with dialled(subject) as client:
        answer = client.get("/health")
    if answer.status_code in (400, 403):
        raise Problem(
            f"{subject.membership.proxy} does not let this site in ({answer.status_code})",
            "ask the server's operator whether the site was revoked, or its certificate has expired",
            stops=False,
        )
    if answer.status_code != 200:
        raise Problem(
            f"{subject.membership.proxy} answers {answer.status_code}",
            "ask the server's operator whether the SuperLink is up",
            stops=False,
        )
    return subject.membership.proxy


def clock(subject: Subject) -> str:
    """Whether this machine's clock is near the server's: Flower refuses signatures more than five seconds ahead."""
    with dialled(subject) as client:
        before = time.time()
        answer = client.get("/health")
        now = (before + time.time()) / 2
    # The header is cut to whole seconds.
    skew = now - parsedate_to_datetime(answer.headers["date"]).timestamp() - 0.5
    if abs(skew) >= MOST_SKEW_SECONDS:
        raise Problem(
            f"this machine is {skew:+.0f} s off the server, most is ±{MOST_SKEW_SECONDS:g} s",
            "let NTP set the clock: `timedatectl set-ntp true`",
        )
    return f"{skew:+.1f} s"


def closed(subject: Subject) -> str:
    """Whether what would let one command the federation is out of reach from here, by the proxy and beside it."""
    fix = "tell the server's operator at once: whoever reaches it can run code at every site"
    with dialled(subject) as client:
        for path in FORBIDDEN:
            status = client.post(path, content=b"").status_code
            if status not in (400, 403, 404):
                raise Problem(f"{path} answers {status} through the proxy", fix)
    host = host_of(subject.membership.proxy)
    try:
        socket.create_connection((host, SUPERLINK_PORT), timeout=2).close()
    except OSError:
        return "not through the proxy, nor beside it"
    raise Problem(f"{host}:{SUPERLINK_PORT}, where a SuperLink listens, takes connections from here", fix)


def upload(subject: Subject) -> str:
    """How long the network takes to the server, measured on a megabyte, against the round's deadline."""
    size = sum(
        tensor.nbytes for tensor in build(Architecture(*subject.run.network), subject.run.seed).state_dict().values()
    )
    with dialled(subject) as client:
        # The SuperLink refuses these bytes, after the proxy has taken them all.
        client.get("/health")
        start = time.monotonic()
        answer = client.post(UPLOAD_PATH, content=bytes(TRIAL_BYTES), timeout=120)
        rate = TRIAL_BYTES / (time.monotonic() - start)
    if answer.status_code >= 500 or answer.status_code in (403, 413):
        raise Problem(f"a megabyte is not taken: {answer.status_code}", "see 'proxy reachable'")
    seconds, deadline = size / rate, subject.run.round_deadline_seconds
    if seconds > deadline / 2:
        raise Problem(
            f"the network ({size / 1e6:.1f} MB) takes {seconds:.1f} s up, a round has {deadline:g} s for all",
            "get a faster line, or ask for a longer round-deadline-seconds",
        )
    return f"{size / 1e6:.1f} MB in about {seconds:.1f} s at {rate / 1e6:.1f} MB/s, deadline {deadline:g} s"

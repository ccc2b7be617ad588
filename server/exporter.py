"""The exporter: a long-lived process between the run store and Prometheus."""

import errno
import json
import platform
import socket
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from threading import Lock
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server import metrics as m
from server.certificates import expiries
from server.follow import Follower, Run
from server.samples import run_samples
from server.tally import Durations
from strategies.errors import OperatorError

Wsgi = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]
logger = getLogger("fedrebasin")
# A client that says nothing keeps a thread this long.
SILENCE_SECONDS = 10.0


class ExporterError(OperatorError):
    """The exporter cannot listen, or cannot use its certificates."""

    exit_code = 20


@dataclass(eq=False)
class RunCollector(Collector):
    """The samples of one run of every federation, read anew at each scrape; see `Follower.newest`.

    Scrapes and looks at its health come in threads of their own; what they read of the follower, they read one by one.
    """

    follower: Follower
    certificates: tuple[Path, ...] = ()
    _lock: AbstractContextManager[object] = field(default_factory=Lock)

    def collect(self) -> Iterator[Metric]:
        """A family for each row of the catalogue of which there is a sample."""
        with self._lock:
            families: dict[str, Metric] = {}
            for metric, labels, value in self._samples(self.follower.newest()):
                if metric.short not in families:
                    families[metric.short] = _family(metric)
                _add(families[metric.short], labels, value)
        return iter(families.values())

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering reads nothing."""
        return iter(())

    def health(self) -> dict[str, object]:
        """That the exporter lives, whether it can read the run store, and the runs there, whose names are no labels."""
        with self._lock:
            runs = self.follower.newest()
            problem = self.follower.problem
            return {
                "status": "degraded" if problem else "ok",
                "runs-dir": str(self.follower.directory),
                "problem": problem,
                "runs": [
                    {
                        "federation": federation,
                        "run": run.told.run,
                        "round": run.status.round,
                        "state": run.state,
                        "phase": run.status.phase,
                        "unread-bytes": run.tail.unread,
                    }
                    for federation, run in runs.items()
                ],
            }

    def _samples(self, runs: Mapping[str, Run]) -> Iterator[tuple[m.Metric, tuple[str, ...], float | Durations]]:
        yield m.BUILD, (version("fedrebasin"), platform.python_version()), 1.0
        for name, until in expiries(self.certificates).items():
            yield m.CERTIFICATE_EXPIRY, (name,), until
        yield m.RUN_STORE, (), float(not self.follower.problem)
        for federation, run in runs.items():
            for sample in run_samples(run):
                yield sample.metric, (federation, *sample.labels), sample.value


def _family(metric: m.Metric) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "info": InfoMetricFamily}
    return kinds.get(metric.kind, HistogramMetricFamily)(metric.family, metric.help, labels=metric.labels)


def _add(family: Metric, labels: tuple[str, ...], value: float | Durations) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, Durations)
        family.add_metric(labels, value.cumulative, value.total)
    elif isinstance(family, InfoMetricFamily):
        family.add_metric(labels, {})
    else:
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        assert not isinstance(value, Durations)
        family.add_metric(labels, value)


@dataclass(frozen=True)
class Listening:
    """Where the exporter listens, and by which certificates; without ``certificate`` it speaks plain HTTP.

    client_ca  only clients with a certificate that it signed are answered
    """

    host: str = "127.0.0.1"
    port: int = 9464
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


def start_exporter(collector: RunCollector, listening: Listening) -> WSGIServer:
    """A server that answers on ``/metrics`` and ``/health``, in threads of its own; ``shutdown()`` ends it.

    Raises `ExporterError` when the port is taken, or certificate and key cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    _try_certificates(listening)
    try:
        server, _ = start_http_server(
            listening.port,
            listening.host,
            registry,
            certfile=_text(listening.certificate),
            keyfile=_text(listening.key),
            client_cafile=_text(listening.client_ca),
            client_auth_required=listening.client_ca is not None,
        )
    except OSError as error:
        raise ExporterError(
            f"cannot listen on {listening.host}:{listening.port}: {error.strerror}; {_way_out(error)}"
        ) from error
    server.set_app(with_health(cast(Wsgi, server.get_app()), collector))
    server.RequestHandlerClass = PatientHandler
    if isinstance(server.socket, ssl.SSLSocket):
        # Else the handshake is made before the next client is heard, and one that says nothing would stop them all.
        server.socket.do_handshake_on_connect = False  # pyright: ignore[reportAttributeAccessIssue]
    return server


def _way_out(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "name an address of this machine with --host"
    return "choose another with --port"


def _try_certificates(listening: Listening) -> None:
    """Raises `ExporterError` when they cannot be used: before a port is taken, which would then stay open."""
    if listening.certificate is None or listening.key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for option, path in (("--certificate", listening.certificate), ("--client-ca", listening.client_ca)):
        if path is not None:
            with _told(f"{option} {path}", "a file of certificates in PEM"):
                context.load_verify_locations(path)
    with _told(f"--key {listening.key}", f"the key, in PEM, of the certificate in {listening.certificate}"):
        context.load_cert_chain(listening.certificate, listening.key)


@contextmanager
def _told(named: str, expected: str) -> Generator[None]:
    """Raises `ExporterError`, naming the one file at fault, when what happens inside cannot use it."""
    try:
        yield
    except OSError as error:
        raise ExporterError(f"cannot use {named}: {error}; expected {expected}") from error


class PatientHandler(WSGIRequestHandler):
    """Logs no requests, and waits for no client for ever."""

    timeout = SILENCE_SECONDS

    def handle(self) -> None:
        """Answers. A client that breaks off, or may not connect, is a line in the log and no traceback."""
        try:
            super().handle()
        except OSError as error:
            logger.info("%s: %s", self.client_address[0], error)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing."""


def with_health(metrics: Wsgi, collector: RunCollector) -> Wsgi:
    """``metrics`` at ``/metrics``; what is followed, as JSON, at ``/health``; 404 elsewhere."""

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path != "/health":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"see /metrics and /health\n"]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(collector.health(), indent=1).encode() + b"\n"]

    return answer


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)

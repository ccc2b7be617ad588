"""``fedrebasin exporter``: the run store on a port, for Prometheus."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import OptionError
from cli.output import progress, warn
from server.certificates import unusable
from server.exporter import ExporterError, Listening, RunCollector, start_exporter
from server.follow import Follower
from strategies.files import out_of_sight

TLS = "TLS"
ENDINGS = {signal.SIGINT, signal.SIGTERM}


def exporter(
    runs: Annotated[Path, typer.Option(help="Folder of the runs; it may be made later.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9464,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file with which the exporter speaks HTTPS.", rich_help_panel=TLS)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key.", rich_help_panel=TLS)] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Answer only clients that this authority signed.", rich_help_panel=TLS)
    ] = None,
    watch_certificates: Annotated[
        list[Path] | None,
        typer.Option(help="Export when this certificate ends, or each in this folder (.crt, .pem, .cer); repeatable."),
    ] = None,
) -> None:
    """Serve /metrics and /health from the run store, until SIGTERM or Ctrl-C ends it."""
    if (certificate is None) != (key is None) or (client_ca is not None and certificate is None):
        raise OptionError("--certificate and --key go together, and --client-ca needs both")
    watched = tuple(watch_certificates or ()) + ((certificate,) if certificate is not None else ())
    if why := out_of_sight(runs):
        raise ExporterError(f"--runs {runs}: {why}")
    if runs.exists() and not runs.is_dir():
        raise ExporterError(f"--runs {runs}: a file; expected the folder that holds the runs")
    for problem in unusable(tuple(watch_certificates or ())):
        warn(f"--watch-certificates {problem}; of it nothing is exported until that is put right")
    follower = Follower(runs)
    # Before anybody asks: half a history would look like a history.
    follower.catch_up()
    if follower.problem:
        warn(f"--runs {runs}: {follower.problem}; no run is shown until that is put right")
    # Before any thread is there: the threads that serve inherit that these signals wait for us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        server = start_exporter(RunCollector(follower, watched), Listening(host, port, certificate, key, client_ca))
        scheme = "http" if certificate is None else "https"
        progress.print(f"{scheme}://{host}:{port}/metrics from {runs}", highlight=False, soft_wrap=True)
        signal.sigwait(ENDINGS)
        server.shutdown()
        server.server_close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

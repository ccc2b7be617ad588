"""One federation for all tests: its build, its first run, and that nothing of it is left."""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from cli.ports import free_port
from tests.compose.engine import GRAFANA, HAS_EXPORTER, N_SITES, RUN_SECONDS, Federation, has_image


def pytest_configure() -> None:
    """A time limit ends the tests as Ctrl-C does: what they started ends with them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def federation() -> Generator[Federation]:
    """The whole federation, after its first run."""
    folder = Path(tempfile.mkdtemp(prefix="fedrebasin-compose-"))
    runs = folder / "runs"
    environment = {
        **os.environ,
        "FEDREBASIN_SITES": str(N_SITES),
        "FEDREBASIN_RUNS": str(runs),
        "FEDREBASIN_RUN_CONFIG": "./tests/compose/run.toml",
        "FEDREBASIN_PROXY_BIND": f"127.0.0.1:{free_port()}",
        "FEDREBASIN_GRAFANA_PORT": str(free_port()),
    }
    made = Federation(f"fedrebasin-test-{os.getpid()}", environment, runs)
    try:
        made.compose("build", "certificates")
        started = made.compose("up", "--detach", "--no-build", *services(made), check=False)
        assert made.inspect("run")["State"], started
        made.wait(lambda: made.inspect("run")["State"]["Status"] == "exited", RUN_SECONDS, "the run ends")
        yield made
        made.compose("down", "--volumes", "--remove-orphans")
        assert made.leftovers() == []
    finally:
        made.compose("down", "--volumes", "--remove-orphans", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def services(made: Federation) -> list[str]:
    """All services, but those that cannot be had here."""
    # docker-compose 1.29 lists those of profiles too.
    left_out = {"rehearsal"}
    if not HAS_EXPORTER:
        left_out |= {"exporter", "prometheus", "grafana"}
    elif not has_image(GRAFANA):
        left_out |= {"grafana"}
    return [each for each in made.compose("config", "--services").split() if each not in left_out]

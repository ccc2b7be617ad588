"""One server for all tests that leave it as it was: SuperLink and proxy; two sites enrolled, none running."""

import os
import signal
from collections.abc import Generator

import pytest

from tests.deployment.federation import Deployment, deployment

# Before torch is imported, in this process and in those that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """A time limit ends the tests as Ctrl-C does: what they started ends with them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Generator[Deployment]:
    """SuperLink and proxy; site-us and site-eu are enrolled."""
    with deployment() as made:
        made.start("superlink")
        made.start("proxy")
        made.enrol("site-us")
        made.enrol("site-eu")
        yield made

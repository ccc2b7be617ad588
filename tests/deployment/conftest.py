"""One server for all tests that leave it as it was, and for each module that plays runs one with two sites running."""

import os
import signal
import time
from collections.abc import Generator

import pytest

from tests.deployment.federation import RUN, Deployment, deployment
from tests.deployment.samples import write_images, write_ward
from tests.waiting import wait_until

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


@pytest.fixture(scope="module")
def federation() -> Generator[Deployment]:
    """A server and two sites, all running, one with a folder of images, one with a function; a round needs one site."""
    with deployment({**RUN, "min-sites": 1}) as made:
        began = time.monotonic()
        made.start_server()
        made.enrol("site-us", data=str(write_images(made.root / "images", 0, 600)))
        made.enrol("site-eu", data=write_ward(made.site("site-eu").code, made.root / "vitals.csv", 600, 1200))
        for name in ("site-us", "site-eu"):
            made.start(name)
        wait_until(lambda: made.online() == ["site-eu", "site-us"], 240, lambda: f"two sites are online\n{made.logs()}")
        made.setup_seconds = time.monotonic() - began
        yield made

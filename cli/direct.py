"""What is inside is dialled directly, also where the environment names an HTTP proxy for what is outside.

Flower's clients go by ``HTTPS_PROXY`` and its kin, for 127.0.0.1 too.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager

from cli.environment import environment

# The first that is set counts for some programs, the other one for others.
VARIABLES = ("no_proxy", "NO_PROXY")
LOOPBACK = ("127.0.0.1", "localhost")


def direct(*hosts: str) -> dict[str, str]:
    """Both variables that exempt hosts from proxies: what they say, and beside it the loopback and ``hosts``."""
    said = ",".join(os.environ.get(name, "") for name in VARIABLES).split(",")
    every = ",".join(dict.fromkeys(host for host in (*map(str.strip, said), *LOOPBACK, *hosts) if host))
    return dict.fromkeys(VARIABLES, every)


@contextmanager
def dialled_directly(host: str) -> Generator[None]:
    """Inside, clients of this process that go by the environment dial ``host`` directly."""
    with environment(direct(host)):
        yield

"""Which ports of this machine are free."""

import os
import socket


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_not_free(host: str, port: int) -> str:
    """Why nothing can listen at ``host`` on ``port``, in the system's words; empty where something can."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""

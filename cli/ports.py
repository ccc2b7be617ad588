"""Whether the ports are free at which a site's processes are to listen."""

import os
import socket
from collections.abc import Sequence

from cli.enrolment.errors import KitError
from cli.enrolment.parts import Part, Parts

HOW_TO_FREE = "end what listens there (`ss -ltnp` as root names it), or set another port in site.toml"


def check_ports(parts: Parts, wanted: Sequence[Part] = tuple(Part)) -> None:
    """Raises `KitError` where a port of these processes is not free: left to them, they would fail with less to say."""
    if taken := taken_ports(parts, wanted):
        raise KitError(f"{parts.folder.settings}: {'; '.join(taken)}. {HOW_TO_FREE[0].upper()}{HOW_TO_FREE[1:]}")


def taken_ports(parts: Parts, wanted: Sequence[Part] = tuple(Part)) -> list[str]:
    """Each port of these processes that is not free: the key in ``site.toml``, and why it cannot be listened at."""
    ports = {part: port for part, port in parts.ports().items() if part in wanted}
    return [f"{key} {port}: {why}" for key, port in ports.values() if (why := _why_not(parts.listens_at, port))]


def _why_not(host: str, port: int) -> str:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        return f"{host}:{port}: {os.strerror(error.errno or 0)}"
    return ""

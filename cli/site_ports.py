"""Whether the ports are free at which a site's processes are to listen."""

from collections.abc import Sequence

from cli.enrolment.errors import KitError
from cli.enrolment.parts import Part, Parts
from cli.ports import why_not_free

HOW_TO_FREE = "end what listens there (`ss -ltnp` as root names it), or set another port in site.toml"


def check_ports(parts: Parts, wanted: Sequence[Part] = tuple(Part)) -> None:
    """Raises `KitError` where a port of these processes is not free: left to them, they would fail with less to say."""
    if taken := taken_ports(parts, wanted):
        raise KitError(f"{parts.folder.settings}: {'; '.join(taken)}. {HOW_TO_FREE[0].upper()}{HOW_TO_FREE[1:]}")


def taken_ports(parts: Parts, wanted: Sequence[Part] = tuple(Part)) -> list[str]:
    """Each port of these processes that is not free: the key in ``site.toml``, and why it cannot be listened at."""
    ports = {part: port for part, port in parts.ports().items() if part in wanted}
    host = parts.listens_at
    return [f"{key} {port}: {host}:{port}: {why}" for key, port in ports.values() if (why := why_not_free(host, port))]

"""The settings of a federation, at its server; of a membership, in a kit; and of a site, at the site."""

import ipaddress
import re
from importlib.metadata import version
from typing import Annotated

from pydantic import Field

from cli.enrolment.authority import AUTHORITY_DAYS
from cli.enrolment.files import FileSettings
from strategies.settings import NAME, pattern_words

# 1 to 65535.
PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
ADDRESS = rf"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):{PORT}$"
MEMORY = r"^[1-9]\d*[mg]$"
# Compose takes what begins otherwise for a volume's name and cuts at ':'; its generations read the rest differently.
WHOLE_PATH = r"^(/[^:$'\\\x00-\x1f]*)?$"
# " authority" after it, it is the common name of the authority, which holds 64 letters.
FEDERATION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,53}$"
DEFAULT_IMAGE = re.compile(r"fedrebasin:\d+(\.\w+)+")
PATTERNS = {
    **pattern_words,
    FEDERATION: "letters, digits, '.', '_' and '-', at most 54, the first a letter or a digit",
    ADDRESS: "host:port, an IPv6 address in brackets, the port from 1 to 65535",
    MEMORY: "megabytes or gigabytes such as 512m or 4g",
    WHOLE_PATH: "the whole path of a folder such as /srv/x-rays, without ':', '$', \\ and single quotes",
}
Address = Annotated[str, Field(pattern=ADDRESS)]
Name = Annotated[str, Field(pattern=NAME)]
# A certificate is of no use once that of the authority which signed it has expired.
Days = Annotated[float, Field(gt=0, le=AUTHORITY_DAYS, allow_inf_nan=False)]
OrNone = Annotated[int, Field(ge=0)] | None
Port = Annotated[int, Field(ge=1, le=65535)]
SITE_DAYS, SERVER_DAYS, LEAST_SAMPLES = 365.0, 825.0, 10
RunConfig = dict[str, bool | int | float | str]


def default_image() -> str:
    """The image that `docker build` makes of the version that is installed, as our pages call it."""
    return f"fedrebasin:{version('fedrebasin')}"


def image_of_now(image: str) -> str:
    """``image``, but of the version that is installed where that is the default of another one."""
    return default_image() if DEFAULT_IMAGE.fullmatch(image) else image


def host_of(address: str) -> str:
    """The host of ``host:port``, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def port_of(address: str) -> str:
    """The port of ``host:port``."""
    return address.rpartition(":")[2]


def tls_name(address: str, role: str) -> str:
    """The name that nginx looks for in the certificate of who serves at ``address``: it knows no addresses there.

    So every server's certificate also names its role.
    """
    try:
        ipaddress.ip_address(host_of(address))
    except ValueError:
        return host_of(address)
    return role


class Federation(FileSettings, frozen=True):
    """``federation.toml`` in the server's folder."""

    patterns = PATTERNS

    name: Annotated[str, Field(pattern=FEDERATION)] = "fedrebasin"
    proxy: Address
    """Where the sites dial."""
    listen: Address = Field(default_factory=lambda told: f"0.0.0.0:{port_of(told['proxy'])}")
    """Where the proxy listens: everywhere, at the port that sites dial."""
    superlink: Address = "superlink:8000"
    """Where the SuperLink is, as the proxy and the operator see it."""
    certificate_days: Days = SITE_DAYS
    """How long a site's certificate is good."""
    server_certificate_days: Days = SERVER_DAYS
    """How long the proxy's and the SuperLink's are."""
    least_samples: Annotated[int, Field(ge=3)] = LEAST_SAMPLES
    """Fewest samples that a site must have."""
    image: str
    """The container image that sites run."""
    run: RunConfig = Field(default_factory=dict)
    """What runs will ask for, so that a site can try it beforehand."""


class Membership(FileSettings, frozen=True):
    """``membership.toml`` in a kit: what the federation says to one site. Not to be changed there."""

    patterns = PATTERNS

    federation: Name
    site: Name
    proxy: Address
    node_id: Annotated[str, Field(pattern=r"^\d+$")]
    """Flower's number of the site's SuperNode: 64 bits, more than TOML's integers hold."""
    version: str
    """fedrebasin's version at the server."""
    flower: str
    """Flower's version at the server."""
    architecture: str
    """Hash of the name, shape and dtype of every tensor of the network."""
    least_samples: int
    image: str
    run: RunConfig


class SiteSettings(FileSettings, frozen=True):
    """``site.toml`` in a site's folder: the site's own."""

    patterns = PATTERNS

    data: str
    """``digits``, a path of a folder or file, or ``module:function``; empty until the site's operator says it."""
    data_folder: Annotated[str, Field(pattern=WHOLE_PATH)] = ""
    """With containers: the folder of this machine that they see at /data, read-only."""
    threads: Annotated[int, Field(ge=0)] = 0
    checkpoint: str = ""
    memory: Annotated[str, Field(pattern=MEMORY)] = "4g"
    """With containers: most memory for training."""
    least_free_gigabytes: Annotated[float, Field(ge=0)] = 5.0
    partition: OrNone = None
    """Simulation only: which share of the run's data is this site's, of ``partitions``."""
    partitions: OrNone = None
    sidecar_port: Port = 9443
    runtime_port: Port = 9094

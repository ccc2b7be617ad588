"""Where a federation's server and a site keep their files."""

from dataclasses import dataclass
from pathlib import Path

from cli.enrolment.errors import EnrolmentError, KitError
from strategies.files import out_of_sight


@dataclass(frozen=True)
class ServerFolder:
    """The server's folder. Each subfolder is what one service may see, and no more."""

    path: Path

    @property
    def settings(self) -> Path:
        """The federation's settings."""
        return self.path / "federation.toml"

    @property
    def register(self) -> Path:
        """The list of sites."""
        return self.path / "sites.json"

    @property
    def proxy(self) -> Path:
        """nginx: its configuration, key and certificate, the sites it lets in and the certificates it does not."""
        return self.path / "proxy"

    @property
    def superlink(self) -> Path:
        """The SuperLink: key, certificate, and the secret that its SuperExec knows."""
        return self.path / "superlink"

    @property
    def superexec(self) -> Path:
        """The SuperExec that runs ServerApps: the authority's certificate and the secret."""
        return self.path / "superexec"

    @property
    def issued(self) -> Path:
        """Every certificate that is in use, for the exporter to tell when each expires."""
        return self.path / "issued"

    @property
    def operator(self) -> Path:
        """Whoever submits runs: the SuperLink's address and the authority's certificate."""
        return self.path / "operator"

    def check(self) -> "ServerFolder":
        """Itself. Raises `EnrolmentError` when the folder is no server's."""
        if why := out_of_sight(self.settings):
            raise EnrolmentError(f"{self.path}: {why}")
        if not self.settings.is_file():
            raise EnrolmentError(
                f"{self.path}: no federation.toml; make a federation with `fedrebasin server init --proxy HOST:PORT`, "
                "or name its folder with --folder"
            )
        return self


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder: after ``site request`` keys alone, after ``site install`` also what the kit brought."""

    path: Path

    @property
    def keys(self) -> Path:
        """What never leaves the site."""
        return self.path / "keys"

    @property
    def key(self) -> Path:
        """The site's key, for TLS."""
        return self.keys / "site.key"

    @property
    def node_key(self) -> Path:
        """The same key, for Flower's SuperNode."""
        return self.keys / "node.key"

    @property
    def inside(self) -> Path:
        """Key, certificates and secret for what talks inside the site."""
        return self.path / "inside"

    @property
    def state(self) -> Path:
        """The site's own network, and Flower's files."""
        return self.path / "state"

    @property
    def code(self) -> Path:
        """Modules of the site's own, for ``data = "module:function"``."""
        return self.path / "code"

    @property
    def settings(self) -> Path:
        """The site's own settings."""
        return self.path / "site.toml"

    @property
    def membership(self) -> Path:
        """What the federation says to this site."""
        return self.path / "membership.toml"

    @property
    def certificate(self) -> Path:
        """The site's certificate."""
        return self.path / "site.crt"

    @property
    def authority(self) -> Path:
        """The federation's certificate."""
        return self.path / "ca.crt"

    def check(self) -> "SiteFolder":
        """Itself. Raises `KitError` when no kit was installed there."""
        if why := out_of_sight(self.membership):
            raise KitError(f"{self.path}: {why}")
        if not self.membership.is_file():
            install = "install the kit that comes back: `fedrebasin site install KIT --fingerprint SHA256:…`"
            if self.key.is_file():
                waiting = "keys are there, no kit was installed yet"
                raise KitError(f"{self.path}: {waiting}. Send the request to the server's operator, and {install}")
            raise KitError(
                f"{self.path}: not a site: no membership.toml. Make keys with `fedrebasin site request NAME`, send the "
                f"request to the server's operator, and {install}"
            )
        return self

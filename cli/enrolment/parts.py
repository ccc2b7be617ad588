"""The three processes of a site, each as the command that runs it.

sidecar    nginx: dials the proxy and adds the site's certificate, which Flower's SuperNode cannot
supernode  Flower's SuperNode: signs with the site's key, fetches messages, brings answers back
superexec  Flower's SuperExec: runs the ClientApp, which sees the data, and needs no key
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cli.direct import direct
from cli.enrolment.errors import KitError
from cli.enrolment.files import read_settings, write_public
from cli.enrolment.layout import SiteFolder
from cli.enrolment.settings import Membership, SiteSettings, tls_name
from cli.enrolment.templates import render
from cli.flower import executable
from strategies.settings import is_path


class Part(StrEnum):
    """One process of a site."""

    SIDECAR = "sidecar"
    SUPERNODE = "supernode"
    SUPEREXEC = "superexec"


@dataclass(frozen=True)
class Parts:
    """A site's processes: all on one host and its loopback, or ``apart``, each on a host of its own name."""

    folder: SiteFolder
    settings: SiteSettings
    membership: Membership
    apart: bool = False

    def command(self, part: Part, scratch: Path) -> list[str]:
        """The command line of ``part``; ``scratch`` is a folder for what nginx, the sidecar, writes."""
        match part:
            case Part.SIDECAR:
                return self._sidecar(scratch)
            case Part.SUPERNODE:
                return self._supernode()
            case Part.SUPEREXEC:
                return self._superexec()

    def environment(self) -> Mapping[str, str]:
        """The processes' environment: Flower keeps its files in the site's folder, and stays silent."""
        dialled = [self._host(part) for part in (Part.SIDECAR, Part.SUPERNODE)]
        environment = os.environ | direct(*dialled)
        return environment | {
            "FLWR_HOME": str(self.folder.state / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "HF_HUB_OFFLINE": "1",
            # What `datasets` makes of a folder once, and reads at every message; the data itself is mounted read-only.
            "HF_HOME": str(self.folder.state / "huggingface"),
            # Where data = "module:function" looks.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(self.folder.code), os.environ.get("PYTHONPATH")))),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def ports(self) -> Mapping[Part, tuple[str, int]]:
        """The key in ``site.toml`` and the port of each part that listens."""
        return {
            Part.SIDECAR: ("sidecar-port", self.settings.sidecar_port),
            Part.SUPERNODE: ("runtime-port", self.settings.runtime_port),
        }

    @property
    def listens_at(self) -> str:
        """The address at which the parts listen."""
        return "0.0.0.0" if self.apart else "127.0.0.1"  # noqa: S104 - inside the site's own network

    def _sidecar(self, scratch: Path) -> list[str]:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if nginx is None:
            raise KitError("nginx is not installed: `apt-get install nginx-light`, or run the kit's containers")
        configuration = render(
            "site/sidecar.conf.j2",
            listen=f"{self.listens_at}:{self.settings.sidecar_port}",
            proxy=self.membership.proxy,
            proxy_name=tls_name(self.membership.proxy, "proxy"),
            site=self.folder.path,
        )
        path = write_public(scratch / "sidecar.conf", configuration)
        return [nginx, "-p", str(scratch), "-c", str(path), "-e", "stderr", "-g", "daemon off;"]

    def _supernode(self) -> list[str]:
        inside = self.folder.inside
        options = {
            "--superlink": f"{self._host(Part.SIDECAR)}:{self.settings.sidecar_port}",
            "--root-certificates": inside / "inside-ca.crt",
            "--auth-supernode-private-key": self.folder.node_key,
            "--isolation": "process",
            "--superexec-auth-secret-file": inside / "superexec.secret",
            "--host": self.listens_at,
            "--port": self.settings.runtime_port,
            "--ssl-certfile": inside / "inside.crt",
            "--ssl-keyfile": inside / "inside.key",
            "--ssl-ca-certfile": inside / "inside-ca.crt",
            "--node-config": self._node_config(),
        }
        # Without the folder that it is started in, whose modules would come before ours.
        return _line([sys.executable, "-P", "-m", "cli.node"], options)

    def _superexec(self) -> list[str]:
        options = {
            "--runtime-api-address": f"{self._host(Part.SUPERNODE)}:{self.settings.runtime_port}",
            "--root-certificates": self.folder.inside / "inside-ca.crt",
            "--superexec-auth-secret-file": self.folder.inside / "superexec.secret",
        }
        return _line([executable("flower-superexec")], options)

    def _node_config(self) -> str:
        config: dict[str, str | int] = {
            "name": self.membership.site,
            "data": self.settings.data,
            "state-dir": str(self.folder.state),
            "threads": self.settings.threads,
        }
        if self.settings.partition is not None and self.settings.partitions is not None:
            config |= {"partition-id": self.settings.partition, "num-partitions": self.settings.partitions}
        if self.settings.checkpoint:
            config["checkpoint"] = self.settings.checkpoint
        return " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())

    def _host(self, part: Part) -> str:
        return part.value if self.apart else "127.0.0.1"


def read_parts(folder: SiteFolder, apart: bool = False) -> Parts:
    """The processes of the site in ``folder``, as its settings say."""
    folder = SiteFolder(folder.check().path.resolve())
    settings = read_settings(folder.settings, SiteSettings)
    if not settings.data:
        raise KitError(
            f"{folder.settings}: data is empty; say there where the samples are, then `fedrebasin site check`"
        )
    check_paths(settings, folder.settings)
    return Parts(folder, settings, read_settings(folder.membership, Membership), apart)


def check_paths(settings: SiteSettings, where: Path) -> None:
    """Raises `KitError` for a path that leads elsewhere from another folder: systemd and containers have their own."""
    paths = {"data": settings.data if is_path(settings.data) else "", "checkpoint": settings.checkpoint}
    for key, path in paths.items():
        if path and not Path(path).is_absolute():
            otherwise = ", or 'digits', or module:function" if key == "data" else ""
            raise KitError(
                f"{where}: {key} = {path!r}: expected a whole path, which begins with '/'{otherwise}; the site is not "
                f"started from this folder. Write {str(Path(path).absolute())!r} if that is meant"
            )


def _line(command: Sequence[str], options: Mapping[str, object]) -> list[str]:
    return [*command, *(str(word) for pair in options.items() for word in pair)]

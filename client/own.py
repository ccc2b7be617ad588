"""The network that a site keeps on its own disk."""

from pathlib import Path

from torch import Tensor

from client.site import Site
from strategies.checkpoints import read_checkpoint
from strategies.errors import SettingsError
from strategies.files import read_tensors, write_tensors


def own_path(site: Site) -> Path:
    """Where the site keeps its network."""
    return site.directory / "own.safetensors"


def keep_own(site: Site, state: dict[str, Tensor]) -> None:
    """Keeps ``state`` on the site's disk; a crash leaves the old network or the new one, whole."""
    write_tensors(own_path(site), state)


def load_own(site: Site) -> dict[str, Tensor] | None:
    """The site's network, or None before it has one."""
    path = own_path(site)
    return read_tensors(path) if path.exists() else None


def load_checkpoint(site: Site) -> dict[str, Tensor]:
    """The trained network with which the site joins. Raises `SettingsError` when it names none."""
    if site.checkpoint is None:
        raise SettingsError(
            f"site {site.name!r}: start is 'checkpoint', but its node config names none. "
            "Set checkpoint to a safetensors file, or start from 'seed' or 'shared'."
        )
    return read_checkpoint(site.checkpoint)

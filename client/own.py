"""The networks that a site keeps on its own disk: of the round at hand, and of some before."""

from pathlib import Path

from torch import Tensor

from client.site import Site
from strategies.checkpoints import read_checkpoint
from strategies.errors import SettingsError
from strategies.files import numbered
from strategies.tensor_files import read_tensors, write_tensors


def own_path(site: Site, round_number: int) -> Path:
    """Where the site keeps the network that it trained in a round."""
    return site.directory / f"own-{round_number:04d}.safetensors"


def keep_own(site: Site, state: dict[str, Tensor], round_number: int = 1, n_before: int = 1) -> None:
    """Keeps ``state`` on the site's disk, and those of ``n_before`` rounds before; a crash leaves each file whole.

    Rounds may be played again after a crash of the server: what they build on must then still be there.
    """
    write_tensors(own_path(site, round_number), state)
    for path, number in _kept(site).items():
        if not round_number - n_before <= number <= round_number:
            path.unlink(missing_ok=True)


def load_own(site: Site, round_number: int | None = None) -> dict[str, Tensor] | None:
    """The network that the site trained last in this run, or in that round; None where there is none."""
    kept = {path: number for path, number in _kept(site).items() if round_number in (None, number)}
    return read_tensors(max(kept, key=lambda path: kept[path])) if kept else None


def load_checkpoint(site: Site) -> dict[str, Tensor]:
    """The trained network with which the site joins. Raises `SettingsError` when it names none."""
    if site.checkpoint is None:
        raise SettingsError(
            f"site {site.name!r}: start is 'checkpoint', but its node config names none. "
            "Set checkpoint to a safetensors file, or start from 'seed' or 'shared'."
        )
    return read_checkpoint(site.checkpoint)


def _kept(site: Site) -> dict[Path, int]:
    return numbered(site.directory, "own-")

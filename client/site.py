"""What one site says of itself: its name, its data, its disk. The site's own settings, not the run's."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from strategies.errors import SettingsError
from strategies.names import is_site_name
from strategies.settings import Settings

first_names = ("site-us", "site-eu")


@dataclass(frozen=True)
class Site:
    """One site. ``partition`` of ``n_partitions`` is the share of the data that a simulated site holds."""

    name: str
    directory: Path
    data: str
    partition: int = 0
    n_partitions: int = 1
    threads: int = 0
    checkpoint: Path | None = None

    def seed(self, run_seed: int, purpose: str) -> int:
        """This site's own seed for ``purpose``: stable under the order in which sites are listed."""
        digest = hashlib.sha256(f"{run_seed}/{self.name}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % 2**31


def read_site(node_config: Mapping[str, object], settings: Settings) -> Site:
    """The site that a SuperNode's node config describes; in simulation, one of the run's made-up sites.

    Keys: ``name``, ``data`` (default: the run's), ``state-dir``, ``threads`` (default: all; in simulation one),
    ``checkpoint`` (a trained network to join with; in simulation ``checkpoint.safetensors`` in the site's folder).
    Raises `SettingsError` for a name that could not be a file name or a label.
    """
    simulated = "partition-id" in node_config
    partition = int(str(node_config.get("partition-id", 0)))
    name = str(node_config.get("name") or (simulated_name(partition) if simulated else "site"))
    if not is_site_name(name):
        raise SettingsError(
            f"site name {name!r}: expected letters, digits, '.', '_' and '-', at most 64, and no word that means "
            "something else in a run, such as merged, reference or config, or NAME.corrected"
        )
    # Of each run its own: a network of another is no teacher, and answers no question about this one.
    kept_by_run = Path(settings.runs_dir) / settings.run / "sites" / name
    state_dir = node_config.get("state-dir", None if simulated else Path.home() / ".fedrebasin")
    directory = kept_by_run if state_dir is None else Path(str(state_dir)) / name / settings.run
    laid_out = directory / "checkpoint.safetensors"
    checkpoint = node_config.get("checkpoint", laid_out if simulated and laid_out.is_file() else None)
    return Site(
        name=name,
        directory=directory,
        data=str(node_config.get("data", settings.data)),
        partition=partition,
        n_partitions=int(str(node_config.get("num-partitions", 1))),
        threads=int(str(node_config.get("threads", 1 if simulated else 0))),
        checkpoint=None if checkpoint is None else Path(str(checkpoint)),
    )


def simulated_name(partition: int) -> str:
    """site-us, site-eu, site-3, site-4 …"""
    return first_names[partition] if partition < len(first_names) else f"site-{partition + 1}"


def choose_device() -> torch.device:
    """The fastest device here: CUDA, Apple's MPS, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

"""What is trained: data, network, split, sites and seed. Everything that a training depends on is in its settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.merging.images import DATA
from strategies.settings import Settings, parse_settings

# As many as the tables in the docs are of, from 0.
SEEDS = 3
SPLITS = ("biased", "disjoint", "dirichlet", "iid")
COMMON: dict[str, object] = {"start": "checkpoint", "model": "resnet20", "norm": "batch", "classes": 10}
DATA_SETTINGS: dict[str, dict[str, object]] = {
    "digits": {"data": "digits", "shape": "1x8x8", "depth": 8, "epochs": 20},
    "cifar10": {
        "data": DATA,
        "shape": "3x32x32",
        "depth": 20,
        "epochs": 10,
        "batch-size": 64,
        "autocast": True,
    },
}


@dataclass(frozen=True)
class Task:
    """One federation of sites that trained apart."""

    data: str
    width: int
    split: str
    n_sites: int
    seed: int

    @property
    def name(self) -> str:
        """Such as ``cifar10-w16-biased-2-s0``."""
        return f"{self.data}-w{self.width}-{self.split}-{self.n_sites}-s{self.seed}"

    @property
    def row(self) -> str:
        """Its name without the seed."""
        return self.name.rpartition("-s")[0]

    @property
    def is_pooled(self) -> bool:
        """Whether pooled training is tried too; on CIFAR-10 once, since all splits are of the same images."""
        return self.data == "digits" or (self.split == "biased" and self.n_sites == 2)

    @property
    def config(self) -> dict[str, object]:
        """The run config of its trainings."""
        varied = {"width": self.width, "split": self.split, "seed": self.seed, "min-sites": self.n_sites}
        return COMMON | DATA_SETTINGS[self.data] | varied

    @property
    def settings(self) -> Settings:
        """The same, parsed."""
        return parse_settings(self.config)


def tasks(seeds: int, only: Sequence[str] = ()) -> Iterator[Task]:
    """The tasks of the tables whose names hold all texts of ``only``, seed by seed: a part of them is a table too."""
    return (task for task in _all_tasks(seeds) if all(text in task.name for text in only))


def _all_tasks(seeds: int) -> Iterator[Task]:
    for seed in range(seeds):
        for data in ("digits", "cifar10"):
            for (width, n_sites), split in product(((16, 2), (16, 5), (32, 2), (32, 5)), SPLITS):
                yield Task(data, width, split, n_sites, seed)

"""How a simulated federation's data falls to its sites."""

from functools import cached_property
from typing import cast
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner

from strategies.settings import Settings

LABEL = "label"
INDEX = "index"


class HomeClassPartitioner(Partitioner):
    """Each class has home sites, which share ``home_share`` of its samples; the other sites share the rest.

    The biased split of Git Re-Basin (arXiv 2209.04836, section 5.4) for any number of sites: of two sites, each holds
    80 % of one half of the classes and 20 % of the other. With ``home_share`` 1 the sites' labels are disjoint.
    The classes, in their order, are cut into as many runs as there are sites (at most one per class).
    """

    def __init__(self, n_sites: int, home_share: float, seed: int) -> None:
        super().__init__()
        self.n_sites = n_sites
        self.home_share = home_share
        self.seed = seed

    @property
    def num_partitions(self) -> int:
        """The number of sites."""
        return self.n_sites

    def load_partition(self, partition_id: int) -> Dataset:
        """The samples of site ``partition_id``."""
        return self.dataset.select(self._rows[partition_id])

    @cached_property
    def _rows(self) -> list[list[int]]:
        labels = np.array(column(self.dataset, LABEL), dtype=np.int64)
        classes = np.unique(labels)
        generator = np.random.default_rng(self.seed)
        rows: list[list[int]] = [[] for _ in range(self.n_sites)]
        for rank, label in enumerate(classes):
            members = generator.permutation(np.flatnonzero(labels == label))
            cuts = np.round(np.cumsum(self._shares(rank, len(classes))) * len(members)).astype(int)[:-1]
            for site, part in enumerate(np.split(members, cuts)):
                rows[site] += [int(row) for row in part]
        return [sorted(site_rows) for site_rows in rows]

    def _shares(self, rank: int, n_classes: int) -> npt.NDArray[np.float64]:
        """Each site's share of the ``rank``-th class."""
        n_homes = min(self.n_sites, n_classes)
        # The first site is at home in the last run of classes: it holds 20 % of classes 0-4 and 80 % of 5-9.
        home = (n_homes - 1 - rank * n_homes // n_classes) % n_homes
        at_home = np.arange(self.n_sites) % n_homes == home
        if at_home.all():
            return np.full(self.n_sites, 1 / self.n_sites)
        n_home = int(at_home.sum())
        share_away = (1 - self.home_share) / (self.n_sites - n_home)
        return np.where(at_home, self.home_share / n_home, share_away).astype(np.float64)


def partition_rows(labels: npt.NDArray[np.int64], settings: Settings, partition: int, n_partitions: int) -> list[int]:
    """The rows of the data that site ``partition`` of ``n_partitions`` holds."""
    table = Dataset.from_dict({LABEL: labels, INDEX: np.arange(len(labels))})
    partitioner = _partitioner(settings, n_partitions)
    # Flower's IID partitioner cuts the data as it lies, and an image folder lies sorted by class.
    partitioner.dataset = table.shuffle(seed=settings.seed)
    with catch_warnings():
        # Of each try that gives a site too little; where none succeeds, the last raises `ValueError`.
        simplefilter("ignore", UserWarning)
        return sorted(column(partitioner.load_partition(partition), INDEX))


def column(table: Dataset, name: str) -> list[int]:
    """A column of whole numbers, read at once: row by row a table is slow."""
    return cast(dict[str, list[int]], table[:])[name]


def _partitioner(settings: Settings, n_partitions: int) -> Partitioner:
    match settings.split:
        case "biased":
            return HomeClassPartitioner(n_partitions, 0.8, settings.seed)
        case "disjoint":
            return HomeClassPartitioner(n_partitions, 1.0, settings.seed)
        case "iid":
            return IidPartitioner(n_partitions)
        case "dirichlet":
            return DirichletPartitioner(n_partitions, LABEL, settings.dirichlet_alpha, seed=settings.seed)

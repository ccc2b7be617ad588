"""Each site's own training, kept on disk by all that it depends on: every way of merging gets the same networks.

python -m benchmarks.merging.trainings --cifar10 PATH --seeds 3 --workers 2

``--only TEXT`` makes those of the tasks whose name holds TEXT.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.merging.images import cache_folder, decode
from benchmarks.merging.tasks import Task, tasks
from cli.interrupts import terminable
from client.app import own_state, schedule_of
from client.data import load_site_data
from client.site import Site, simulated_name
from client.training import train
from models import Architecture, build
from strategies.files import write_text
from strategies.tensor_files import write_tensors

TRAINING_KEYS = (
    *("seed", "model", "shape", "classes", "width", "depth", "norm", "data", "split", "dirichlet-alpha", "held-out"),
    *("epochs", "batch-size", "learning-rate", "weight-decay", "autocast"),
)


@dataclass(frozen=True)
class Training:
    """The training of one site of a task."""

    task: Task
    partition: int

    @property
    def site(self) -> Site:
        """The site, as a simulation would make it."""
        settings = self.task.settings
        return Site(simulated_name(self.partition), Path(), settings.data, self.partition, self.task.n_sites)

    @property
    def path(self) -> Path:
        """Where the trained network is kept."""
        said = self.task.settings.model_dump(by_alias=True)
        depends = {key: said[key] for key in TRAINING_KEYS} | {"site": self.site.name, "sites": self.task.n_sites}
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        return cache_folder() / f"{self.task.name}-{self.site.name}-{digest}.safetensors"


def make(training: Training) -> float:
    """Trains unless it was done before; returns the seconds that it took then."""
    torch.set_num_threads(1)
    seconds_path = training.path.with_suffix(".seconds")
    if not training.path.exists():
        start = time.monotonic()
        settings, site = training.task.settings, training.site
        model = build(Architecture(*settings.network), site.seed(settings.seed, "initial weights"))
        samples = load_site_data(site, settings).train
        train(model, samples, schedule_of(settings, site, 1, first=True), torch.device("cpu"))
        write_text(seconds_path, f"{time.monotonic() - start:.1f}")
        write_tensors(training.path, own_state(model))
    return float(seconds_path.read_text())


def trainings(seeds: int, only: Sequence[str]) -> list[Training]:
    """Every training of the table's tasks whose names hold all texts of ``only``."""
    return [Training(task, partition) for task in tasks(seeds, only) for partition in range(task.n_sites)]


def main() -> None:
    """Makes what is missing, a few at a time with one thread each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="a folder in the layout of uoft-cs/cifar10")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--only", action="append", default=[], help="tasks whose name holds this; may be repeated")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    arguments = parser.parse_args()
    try:
        decode(arguments.cifar10)
    except ValueError as error:
        parser.error(str(error))
    wanted = trainings(arguments.seeds, arguments.only)
    # Forked, a process would inherit torch's threads in an unknown state.
    with terminable(), ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        seconds = sum(track(pool.map(make, wanted), "training", total=len(wanted)))
    print(f"{len(wanted)} trainings, {seconds / 60:.0f} processor minutes")


if __name__ == "__main__":
    main()

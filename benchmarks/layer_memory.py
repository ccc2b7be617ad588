"""Most memory of solving one layer of many networks whose Gram matrices lie on disk, each number in its own process.

python -m benchmarks.layer_memory --networks 2 10 20
"""

import argparse
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from alignment.least_squares import merge_layers
from strategies.spool import Spool

# 16 MB in single precision.
INPUTS, OUTPUTS = 2000, 50


def main() -> None:
    """Prints a line for each number of networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, nargs="+", default=[2, 10, 20])
    for n_networks in parser.parse_args().networks:
        # Memory that a process gave back would still be the most that it had.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            megabytes = apart.submit(most_megabytes, n_networks).result()
        print(f"{n_networks:3} networks: {megabytes:,.0f} MB")


def most_megabytes(n_networks: int) -> float:
    """The most resident memory of this process, once a layer of so many networks is solved."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        states = [
            spool.add(f"{number}", {"layer.weight": torch.randn(OUTPUTS, INPUTS, generator=generator)})
            for number in range(n_networks)
        ]
        grams = [
            spool.add(f"{number}, sums", {"layer": inputs.T @ inputs})
            for number in range(n_networks)
            for inputs in [torch.randn(INPUTS, INPUTS, generator=generator)]
        ]
        merge_layers(states[0], states, grams)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

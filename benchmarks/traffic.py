"""What probes cost in bytes: real Flower runs of three sites with and without them, in multiples of the network's size.

python -m benchmarks.traffic
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import tomli_w
from tqdm import tqdm

from models import Architecture, build
from server.store import RunStore
from server.summary import read_rounds
from strategies.settings import parse_settings

N_SITES = 3
NETWORK = {"model": "resnet20", "depth": 8, "width": 8, "seed": 0}


def main() -> None:
    """Prints a line for each round of each run: bytes to and from a site, over the bytes of one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| norm | probe points | round | networks moved | to each site | from each site |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for norm, points in tqdm(list(product(("batch", "layer"), (0, 3))), disable=None):
            for row in play(Path(folder), norm, points):
                tqdm.write(f"| {' | '.join(row)} |")


def play(folder: Path, norm: str, points: int) -> list[tuple[str, ...]]:
    """The rows of one run. Its guard, which asks about further networks, is off."""
    name = f"{norm}-{points}"
    config = {**NETWORK, "norm": norm, "align-at": "both", "probe-points": points, "guard": False, "rounds": 2}
    config |= {"run": name, "epochs": 1, "later-epochs": 1, "split": "iid", "data": "digits"}
    (folder / "run.toml").write_bytes(tomli_w.dumps(config).encode())
    command = [str(Path(sys.executable).parent / "fedrebasin"), "demo", "--run-config", str(folder / "run.toml")]
    command += ["--sites", str(N_SITES), "--runs", str(folder), "--format", "json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    size = sum(
        tensor.nbytes for tensor in build(Architecture(*parse_settings(config).network), 0).state_dict().values()
    )
    rows: list[tuple[str, ...]] = []
    for record in read_rounds(RunStore(folder / name)):
        moved = sum(any(matching.moved.values()) for matching in record.matchings.values())
        down, up = (
            ", ".join(f"{getattr(each, way) / size:.1f}" for each in record.traffic.values())
            for way in ("sent", "received")
        )
        rows.append((norm, str(points), str(record.round), str(moved), down, up))
    return rows


if __name__ == "__main__":
    main()

"""A crowd of sites, round after round: is resident memory flat?

python -m benchmarks.soak --minutes 10

Sites answer in this process at once (see `tests.many`): what is measured is the server. 5 % crash, 2 % lie,
5 % are late. Ends with 1 when a round did not merge, or a refusal is not accounted for.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from server.live import resident_bytes
from server.summary import read_rounds
from tests.many import play_crowd

# In each run; every run is new.
N_ROUNDS = 5


def main() -> None:
    """Plays runs of a few rounds until the time is over, and prints the slope of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    logging.getLogger("fedrebasin").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), arguments.sites, arguments.minutes * 60)
    print(json.dumps(found) if arguments.format == "json" else _told(found))
    sys.exit(0 if found["accounted"] else 1)


def soak(folder: Path, n_sites: int, seconds: float) -> dict[str, float | bool]:
    """Rounds, the megabytes of resident memory after each as a line fitted to them, and whether all counts agree."""
    ends, accounted = time.monotonic() + seconds, True
    memory: list[float] = []
    times: list[float] = []
    number = 0
    while time.monotonic() < ends:
        number += 1
        store, crowd = play_crowd(folder / str(number), n_sites, N_ROUNDS, number)
        rounds = read_rounds(store)
        refused = Counter(verdict.reason for record in rounds for verdict in record.refused)
        accounted &= refused == crowd.expected and all(record.outcome == "merged" for record in rounds)
        memory.append(resident_bytes() / 1e6)
        times.append(time.monotonic())
    # The first run fills caches and imports what is imported late.
    kept = slice(1, None) if len(memory) > 2 else slice(None)
    slope = float(np.polyfit(np.array(times[kept]) / 3600, memory[kept], 1)[0]) if len(memory[kept]) > 1 else 0.0
    return {
        "rounds": N_ROUNDS * number,
        "sites": n_sites,
        "first_megabytes": memory[0],
        "last_megabytes": memory[-1],
        "slope_megabytes_per_hour": slope,
        "accounted": accounted,
    }


def _told(found: dict[str, float | bool]) -> str:
    return (
        f"{found['rounds']} rounds of {found['sites']} sites; resident memory {found['first_megabytes']:.0f} MB after "
        f"the first {N_ROUNDS} rounds, {found['last_megabytes']:.0f} MB at the end, slope "
        f"{found['slope_megabytes_per_hour']:+.1f} MB an hour; every refusal accounted for: {found['accounted']}"
    )


if __name__ == "__main__":
    main()

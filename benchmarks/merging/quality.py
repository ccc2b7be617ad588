"""What each way of merging is worth, on digits and CIFAR-10: real Flower runs, tables in Markdown or JSON.

python -m benchmarks.merging.quality --cifar10 PATH --seeds 3

Sites' trainings and finished runs are kept (see `images.cache_folder`) and not made twice. ``--only TEXT`` plays the
tasks whose name holds TEXT; ``--kept`` tabulates what lies there and plays nothing; ``--record`` copies what the tables
are made of to `benchmarks/merging/records`, which ``FEDREBASIN_BENCHMARK_CACHE=benchmarks/merging/records`` tabulates.
On another processor the same seeds train other networks: ``--record benchmarks/merging/records-xeon`` keeps them apart.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.merging.images import decode
from benchmarks.merging.pooled import pooled
from benchmarks.merging.runs import METHODS, Played, all_kept, play, record
from benchmarks.merging.tables import tables
from benchmarks.merging.tasks import Task, tasks
from cli.interrupts import terminable
from cli.superlink import local_superlink, short_folder

POOLED = "pooled"
CHOICES = (*METHODS, POOLED)
progress = Console(stderr=True)
# What the pages of `docs/merge-quality/` are made of; and one of them, of trainings on another processor.
RECORDS = Path(__file__).parent / "records"
ELSEWHERE = Path(__file__).parent / "records-xeon"


def main() -> None:
    """Plays what is asked for and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="a folder in the layout of uoft-cs/cifar10")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--only", action="append", default=[], help="tasks whose name holds this; may be repeated")
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=CHOICES, help="these alone")
    parser.add_argument("--kept", action="store_true", help="play nothing")
    parser.add_argument(
        "--record",
        nargs="?",
        const=RECORDS,
        type=Path,
        metavar="FOLDER",
        help="copy what is tabulated to this folder, or to benchmarks/merging/records",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    wanted = list(tasks(arguments.seeds, arguments.only))
    if not wanted:
        parser.error(f"--only {' '.join(arguments.only)}: no task has such a name; they are called as in {RECORDS}")
    if not arguments.kept:
        if arguments.cifar10:
            try:
                decode(arguments.cifar10)
            except ValueError as error:
                parser.error(str(error))
        play_all([t for t in wanted if arguments.cifar10 or t.data != "cifar10"], arguments.methods)
    if arguments.record:
        for task in wanted:
            record(task, arguments.record)
    found = all_kept(wanted)
    if arguments.format == "json":
        print(json.dumps([_document(each) for each in found], indent=1))
    else:
        print(tables(found))


def play_all(wanted: Sequence[Task], by: Sequence[str]) -> None:
    """Plays every method of ``by`` on every task, one run at a time, on one SuperLink; then trains on pooled data."""
    home = short_folder()
    try:
        with terminable(), local_superlink(home, 0) as link:
            pairs = [(task, method) for task in wanted for method in METHODS if method in by]
            for task, method in track(pairs, "playing", console=progress):
                play(link, task, method)
            for task in wanted if POOLED in by else ():
                if task.is_pooled:
                    pooled(task)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _document(played: Played) -> dict[str, object]:
    rounds = [record.model_dump() for record in played.rounds]
    return {"task": played.task.name, "method": played.method, "rounds": rounds}


if __name__ == "__main__":
    main()

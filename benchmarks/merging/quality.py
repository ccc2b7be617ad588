"""What each way of merging is worth, on digits and CIFAR-10: real Flower runs, tables in Markdown or JSON.

python -m benchmarks.merging.quality --cifar10 PATH --seeds 3

Sites' trainings and finished runs are kept (see `images.cache_folder`) and not made twice. ``--only TEXT`` plays the
tasks whose name holds TEXT; ``--kept`` tabulates what lies there and plays nothing.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import track

from benchmarks.merging.images import decode
from benchmarks.merging.runs import METHODS, Played, kept, play
from benchmarks.merging.tasks import Task, tasks
from cli.interrupts import terminable
from cli.superlink import local_superlink, short_folder
from server.records import Score

progress = Console(stderr=True)
# Title, method whose run tells it, and the name of the network in the record; None: the network that was merged.
COLUMNS: tuple[tuple[str, str, str | None], ...] = (
    ("best site", "activations", "best"),
    ("best site, corrected", "activations", "best.corrected"),
    ("ensemble", "activations", "ensemble"),
    ("naive", "activations", "naive"),
    ("naive, recalibrated", "activations", "naive.recalibrated"),
    ("weights", "activations", "weights.recalibrated"),
    ("activations", "activations", "aligned.recalibrated"),
    ("then weights", "activations", "then-weights.recalibrated"),
    ("joint", "joint", "aligned.recalibrated"),
    ("joint + counts", "joint", "aligned.recalibrated.counts"),
    ("joint + ridge", "joint", "aligned.recalibrated.ridge"),
    ("joint + least squares", "joint", "aligned.recalibrated.least-squares"),
    ("weights + least squares", "joint", "weights.recalibrated.least-squares"),
    ("naive + ridge", "joint", "naive.recalibrated.ridge"),
    ("search", "search", None),
)


def main() -> None:
    """Plays what is asked for and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="a folder in the layout of uoft-cs/cifar10")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--only", action="append", default=[], help="tasks whose name holds this text; may be repeated")
    parser.add_argument("--kept", action="store_true", help="play nothing")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    wanted = [task for task in tasks(arguments.seeds) if all(text in task.name for text in arguments.only)]
    if not arguments.kept:
        if arguments.cifar10:
            decode(arguments.cifar10)
        play_all([task for task in wanted if arguments.cifar10 or task.data != "cifar10"])
    found = [played for task in wanted for method in METHODS if (played := kept(task, method)) is not None]
    if arguments.format == "json":
        print(json.dumps([_document(each) for each in found], indent=1))
    else:
        show(found)


def play_all(wanted: Sequence[Task]) -> None:
    """Plays every method on every task, one run at a time, on one SuperLink."""
    home = short_folder()
    try:
        with terminable(), local_superlink(home, 0) as link:
            pairs = [(task, method) for task in wanted for method in METHODS]
            for task, method in track(pairs, "playing", console=progress):
                play(link, task, method)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def show(found: Iterable[Played]) -> None:
    """One table for each quantity; a row is a task over its seeds: mean, and half the range behind ±."""
    by_row: dict[str, dict[str, list[Played]]] = {}
    for each in found:
        row = each.task.name.rpartition("-s")[0]
        by_row.setdefault(row, {}).setdefault(each.method, []).append(each)
    for quantity in ("accuracy", "loss"):
        print(f"\n| {quantity} | seeds | " + " | ".join(title for title, _, _ in COLUMNS) + " |")
        print("| --- " * (2 + len(COLUMNS)) + "|")
        for row, methods in by_row.items():
            n_seeds = max(len(runs) for runs in methods.values())
            cells = [_cell(methods.get(method, []), name, quantity) for _, method, name in COLUMNS]
            print(f"| {row} | {n_seeds} | " + " | ".join(cells) + " |")
    print("\n| barrier, nats; seconds; MB | naive | activations | joint | seconds | MB from a site | MB to it |")
    print("| --- " * 7 + "|")
    for row, methods in by_row.items():
        activations, joint = methods.get("activations", []), methods.get("joint", [])
        cells = [
            _spread([r.first.barrier.naive for r in activations if r.first.barrier and r.first.barrier.naive]),
            _spread([r.first.barrier.aligned for r in activations if r.first.barrier]),
            _spread([r.first.barrier.aligned for r in joint if r.first.barrier]),
            _spread([sum(r.first.seconds.values()) for r in joint], 0),
            _spread([max(t.received for t in r.first.traffic.values()) / 1e6 for r in joint], 1),
            _spread([max(t.sent for t in r.first.traffic.values()) / 1e6 for r in joint], 1),
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")


def _cell(runs: Sequence[Played], name: str | None, quantity: str) -> str:
    scores = [score for run in runs if (score := _score(run, name)) is not None]
    return _spread([score.accuracy if quantity == "accuracy" else score.loss for score in scores])


def _score(run: Played, name: str | None) -> Score | None:
    if name is None:
        return run.first.merged
    if name.startswith("best"):
        ending = name.removeprefix("best")
        return max((run.first.baselines[site + ending] for site in run.first.weights), key=lambda score: score.accuracy)
    return run.first.baselines.get(name)


def _spread(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"


def _document(played: Played) -> dict[str, object]:
    rounds = [record.model_dump() for record in played.rounds]
    return {"task": played.task.name, "method": played.method, "rounds": rounds}


if __name__ == "__main__":
    main()

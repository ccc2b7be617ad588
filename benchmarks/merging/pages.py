"""docs/merge-quality/: the tables of all runs, a page for each data set and width, and the commands that played them.

``python -m benchmarks.merging.pages`` writes them from `benchmarks/merging/records`, and the tables of
docs/merge-quality.md, the page that sums them up.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.merging.images import CACHE
from benchmarks.merging.pooled import kept_pooled
from benchmarks.merging.quality import ELSEWHERE, POOLED, RECORDS
from benchmarks.merging.runs import Played, all_kept
from benchmarks.merging.summary import renewed
from benchmarks.merging.tables import tables
from benchmarks.merging.tasks import SEEDS, Task, tasks

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "merge-quality"
SUMMARY = FOLDER.with_suffix(".md")
DIGITS = "A ResNet-8 with BatchNorm on scikit-learn's 1,797 digits, 20 epochs from each site's own start."
CIFAR10 = """A ResNet-20 with BatchNorm on 16,000 images over all sites, 10 epochs from each site's own start, learning
rate 0.1, weight decay 3e-3, products in bfloat16."""
XEON = """These runs and the trainings behind them were played on an Intel Xeon with AMX; those of all other pages on
an AMD EPYC with AVX-512. Another processor rounds differently, and from the same seeds it trains other networks:
compare what stands here with what stands here. Seconds are of runs beside other work, and no measure."""


class Part(NamedTuple):
    """A page: what its tasks' names begin with, and where the records of their runs lie."""

    tasks: str
    title: str
    data: str
    records: Path = RECORDS


PARTS = {
    "digits-w16": Part("digits-w16", "Digits, width 16", DIGITS),
    "digits-w32": Part("digits-w32", "Digits, width 32", DIGITS),
    "cifar10-w16": Part("cifar10-w16", "CIFAR-10, width 16", CIFAR10),
    "cifar10-w32": Part("cifar10-w32", "CIFAR-10, width 32", CIFAR10),
    "another-processor": Part("", "Another processor", f"{DIGITS}\n\n{CIFAR10}\n\n{XEON}", ELSEWHERE),
}
PAGE = """# {title}

{data}

[What a merge is worth](../merge-quality.md) says what rows and columns are, how they were measured, and what follows
from them. `python -m benchmarks.merging.pages` made this page from the records of the runs. "(2)" behind a cell says
that it has fewer seeds than its column: it is of other trainings than its neighbours. An empty cell was not played.

{tables}

## Commands

With these everything above was played; seeds count from 0.

```
{commands}
```
"""


def main() -> None:
    """Writes every page."""
    for name, part in PARTS.items():
        os.environ[CACHE] = str(part.records)
        (FOLDER / f"{name}.md").write_text(page(part), encoding="utf-8")
    os.environ[CACHE] = str(RECORDS)
    SUMMARY.write_text(summary(), encoding="utf-8")


def summary() -> str:
    """The page that sums them up as it stands, with its tables from the runs that the cache keeps."""
    return renewed(SUMMARY.read_text(encoding="utf-8"), all_kept(tasks(SEEDS)))


def page(part: Part) -> str:
    """The page of ``part``, from the runs that the cache keeps."""
    wanted = list(tasks(SEEDS, [part.tasks]))
    found = all_kept(wanted)
    commands = "\n".join(_commands(wanted, found))
    return PAGE.format(title=part.title, data=part.data, tables=tables(found), commands=commands)


def _commands(wanted: Iterable[Task], found: Sequence[Played]) -> Iterator[str]:
    """One line for each task, or for each of its seeds, where not all were played by the same methods."""
    methods: dict[Task, list[str]] = {task: [] for task in wanted}
    for played in found:
        methods[played.task].append(played.method)
    rows: defaultdict[str, dict[Task, tuple[str, ...]]] = defaultdict(dict)
    for task, by in methods.items():
        if by or kept_pooled(task):
            rows[task.row][task] = (*by, *([POOLED] if kept_pooled(task) else []))
    for row, by_task in rows.items():
        first, *others = by_task.items()
        if [task.seed for task in by_task] == list(range(len(by_task))) and all(by == first[1] for _, by in others):
            yield _command(row, len(by_task), first[1])
        else:
            yield from (_command(task.name, task.seed + 1, by) for task, by in by_task.items())


def _command(only: str, seeds: int, by: Sequence[str]) -> str:
    data = " --cifar10 PATH" if only.startswith("cifar10") else ""
    return f"python -m benchmarks.merging.quality{data} --seeds {seeds} --only {only} --methods {' '.join(by)}"


if __name__ == "__main__":
    main()

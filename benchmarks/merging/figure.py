"""The pictures of docs/merge-quality.md, drawn from `benchmarks/merging/records`, the runs behind its tables.

docs/images/merges.svg  what merges are worth beside the sites' networks and their ensemble, task by task
docs/images/rounds.svg  what further rounds make of each start

``python -m benchmarks.merging.figure`` draws both.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawings import PANELS, RED
from benchmarks.merging.images import CACHE
from benchmarks.merging.quality import RECORDS
from benchmarks.merging.runs import Played, all_kept
from benchmarks.merging.summary import COUNTS, DATA, FEDERATIONS, SPLITS, STARTS, By, by_round, played_of
from benchmarks.merging.tables import CORRECTED, Rows, accuracies, by_row, scores_of
from benchmarks.merging.tasks import SEEDS, tasks
from server.drawing import ALIGNED_COLOUR, GREY, NAIVE_COLOUR

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
# Of each network: its title in the tables, marker and colour.
SHOWN = (
    (CORRECTED, "s", GREY),
    ("best site + logistic", "v", GREY),
    ("ensemble", "D", GREY),
    ("naive, recalibrated", "o", RED),
    ("joint", "o", NAIVE_COLOUR),
    ("joint + ridge", "^", NAIVE_COLOUR),
    ("joint + sequential + ridge", "o", ALIGNED_COLOUR),
    ("joint + sequential + logistic", "P", ALIGNED_COLOUR),
    ("search", "^", ALIGNED_COLOUR),
)
# Of each start of rounds: what it is, colour and line.
LINES = {
    "rounds-merge-slow": ("the best merge, with a tenth of the step", ALIGNED_COLOUR, "-"),
    "rounds-merge": ("the best merge", ALIGNED_COLOUR, "--"),
    "rounds": ("the aligned mean", NAIVE_COLOUR, "-"),
    "rounds-none": ("the plain mean", RED, "--"),
    "rounds-site": ("the best site's network", GREY, "-"),
    "rounds-scratch": ("a random network", GREY, ":"),
}
ROUNDS = range(1, 6)
LEAST_RANGE = 0.06


def main() -> None:
    """Draws the pictures."""
    os.environ[CACHE] = str(RECORDS)
    rows = by_row(all_kept(tasks(SEEDS)))
    with mpl.rc_context(PANELS):
        for name, figure in (("merges", _merges(rows)), ("rounds", _rounds(rows))):
            metadata = {"Date": None, "Creator": None}
            figure.savefig(IMAGES / f"{name}.svg", format="svg", transparent=True, metadata=metadata)


def _merges(rows: Rows) -> Figure:
    parts = {data: {row: played for row, played in rows.items() if row.startswith(data)} for data in DATA}
    figure = Figure(figsize=(9.0, 0.42 * len(rows) + 1.6), layout="constrained")
    heights = [len(part) for part in parts.values()]
    axes: Any = figure.subplots(len(parts), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for ax, (data, part) in zip(axes, parts.items(), strict=True):
        _draw_merges(ax, data, part)
    axes[-1].set_xlabel(
        "accuracy on the union of held-out samples; mean, least and greatest of the seeds; hollow: of fewer seeds"
    )
    # Not every network is in both panels. Hollow markers come first, and are replaced where there are others.
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    pairs.sort(key=lambda pair: pair[0].get_markerfacecolor() != "none")
    _legend(figure, {name: handle for handle, name in pairs}, [title for title, _, _ in SHOWN], 4)
    return figure


def _draw_merges(ax: Axes, data: str, rows: Rows) -> None:
    ax.set_title(DATA[data])
    places = range(len(rows))
    for title, marker, colour in SHOWN:
        for place, played in zip(places, rows.values(), strict=True):
            if found := [score.accuracy for score in scores_of(played, title)]:
                ax.plot([min(found), max(found)], [place, place], color=colour, linewidth=1.5)
                # The mean of fewer seeds is that of other trainings: not to be read against its neighbours.
                whole = len(found) == len(scores_of(played, "ensemble"))
                style: dict[str, Any] = {} if whole else {"markerfacecolor": "none"}
                ax.plot([mean(found)], [place], marker, color=colour, markersize=6, alpha=0.9, label=title, **style)
    ax.set_yticks(list(places), [_said(row) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    _grid(ax)


def _rounds(rows: Rows) -> Figure:
    """A row of panels for each data, width and number of sites of which rounds were played, a panel for each split."""
    found = {
        f"{DATA[data]}\n{COUNTS[n]} sites\nwidth {width}": [played_of(rows, data, width, split, n) for split in SPLITS]
        for data in DATA
        for width, n in FEDERATIONS.values()
    }
    kept = {title: each for title, each in found.items() if any(start in played for played in each for start in STARTS)}
    figure = Figure(figsize=(9.0, 1.7 * len(kept) + 1.0), layout="constrained")
    axes: Any = figure.subplots(len(kept), len(SPLITS), sharex=True, squeeze=False)
    for panels, (title, each) in zip(axes, kept.items(), strict=True):
        panels[0].set_ylabel(title)
        for ax, played in zip(panels, each, strict=True):
            _draw_rounds(ax, played)
    for ax, split in zip(axes[0], SPLITS.values(), strict=True):
        ax.set_title(split)
    figure.supxlabel(
        "accuracy after each round, the mean of the seeds that were played (hollow: of fewer than the others); "
        "round 1: before any training.\nEach panel has its own scale; what is below it is cut off",
        color=GREY,
        fontsize=9,
    )
    shown = {name: handle for ax in axes.flat for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    _legend(figure, shown, [*(said for said, _, _ in LINES.values()), CORRECTED, "ensemble"], 3)
    return figure


def _draw_rounds(ax: Axes, played: By) -> None:
    by_start = {start: _means(played[start]) for start in STARTS if start in played}
    if not by_start:
        ax.set_axis_off()
        return
    seeds = {run.task.seed for start in by_start for run in played[start]}
    levels = {
        title: mean(accuracy for seed, accuracy in accuracies(played, title).items() if seed in seeds)
        for title in (CORRECTED, "ensemble")
    }
    most = max(len(played[start]) for start in by_start)
    for start, means in by_start.items():
        said, colour, line = LINES[start]
        # The mean of fewer seeds is that of other trainings.
        filled = colour if len(played[start]) == most else "none"
        ax.plot(ROUNDS, means, color=colour, linestyle=line, marker="o", markersize=3, mfc=filled, label=said)
    for (title, level), line in zip(levels.items(), ("--", "-."), strict=True):
        ax.axhline(level, color=GREY, linestyle=line, linewidth=0.8, label=title)
    # A random network, and in round 1 a plain mean, would take the room of all others.
    trained = [means for start, means in by_start.items() if start != "rounds-scratch"]
    low = min(levels[CORRECTED], *(value for means in trained for value in means[1:]))
    high = max(*levels.values(), *(value for means in by_start.values() for value in means))
    # Less than that, and single samples would look like differences.
    low = min(low, high - LEAST_RANGE)
    margin = 0.08 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_xticks(ROUNDS)
    _grid(ax)


def _means(runs: Sequence[Played]) -> list[float]:
    """The accuracy after each round, the mean over the seeds."""
    return [mean(values) for values in zip(*(by_round(run).values() for run in runs), strict=True)]


def _grid(ax: Axes) -> None:
    ax.grid(visible=True, color=GREY, alpha=0.25, linewidth=0.6)


def _legend(figure: Figure, shown: Mapping[str, Any], titles: Sequence[str], columns: int) -> None:
    """The ``titles`` that the panels show, in that order."""
    there = [title for title in titles if title in shown]
    figure.legend(
        [shown[title] for title in there],
        there,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        labelcolor=GREY,
    )


def _said(row: str) -> str:
    _, width, split, n_sites = row.split("-")
    return f"{split}, {n_sites} sites, width {width[1:]}"


if __name__ == "__main__":
    main()

"""docs/images/merges.svg: what merges are worth beside the sites' networks and their ensemble, task by task.

``python -m benchmarks.merging.figure`` draws it from `benchmarks/merging/records`, the runs behind the tables of
`docs/merge-quality.md`.
"""

import os
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawings import PANELS, RED
from benchmarks.merging.images import CACHE
from benchmarks.merging.quality import RECORDS
from benchmarks.merging.runs import all_kept
from benchmarks.merging.tables import CORRECTED, Rows, by_row, scores_of
from benchmarks.merging.tasks import tasks
from server.drawing import ALIGNED_COLOUR, GREY, NAIVE_COLOUR

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "merges.svg"
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


def main() -> None:
    """Draws the picture."""
    os.environ[CACHE] = str(RECORDS)
    rows = by_row(all_kept(tasks(3)))
    parts = {
        data: {row: played for row, played in rows.items() if row.startswith(data)} for data in ("digits", "cifar10")
    }
    with mpl.rc_context(PANELS):
        figure = Figure(figsize=(9.0, 0.42 * len(rows) + 1.6), layout="constrained")
        heights = [len(part) for part in parts.values()]
        axes: Any = figure.subplots(len(parts), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        for ax, (data, part) in zip(axes, parts.items(), strict=True):
            _draw(ax, data, part)
        axes[-1].set_xlabel(
            "accuracy on the union of held-out samples; mean, least and greatest of the seeds; hollow: of fewer seeds"
        )
        # Not every network is in both panels. Hollow markers come first, and are replaced where there are others.
        pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
        pairs.sort(key=lambda pair: pair[0].get_markerfacecolor() != "none")
        shown = {name: handle for handle, name in pairs}
        titles = [title for title, _, _ in SHOWN if title in shown]
        figure.legend(
            [shown[title] for title in titles],
            titles,
            loc="outside upper center",
            ncols=4,
            frameon=False,
            labelcolor=GREY,
        )
        figure.savefig(PICTURE, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _draw(ax: Axes, data: str, rows: Rows) -> None:
    ax.set_title("digits" if data == "digits" else "CIFAR-10")
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
    ax.grid(visible=True, color=GREY, alpha=0.25, linewidth=0.6)


def _said(row: str) -> str:
    _, width, split, n_sites = row.split("-")
    return f"{split}, {n_sites} sites, width {width[1:]}"


if __name__ == "__main__":
    main()

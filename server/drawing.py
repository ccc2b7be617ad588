"""Charts of a run: the line between two networks, and its rounds. The same numbers give the same bytes."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.records import PathRecord, RoundRecord, Score, SitePaths
from server.scores import network_scores, sites_alone

NAIVE_COLOUR = "#c2571a"
ALIGNED_COLOUR = "#1a7fc2"
GREY = "#808080"  # legible on white and on black
TITLE_WIDTH = 45  # characters above each chart
CHARTS = (("losses", "loss, nats"), ("accuracies", "accuracy"))
NETWORKS = (
    ("merged", "merged", ALIGNED_COLOUR),
    ("best_site", "best site alone", NAIVE_COLOUR),
    ("best_before_merge", "best site before the merge", GREY),
)
STYLE: dict[Any, Any] = {
    # Without a salt of our own, ids in the SVG are random: the same numbers must give the same bytes.
    "svg.hashsalt": "fedrebasin",
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}
Draw = Callable[[Axes], None]


def path_charts(paths: SitePaths) -> list[str]:
    """Loss, and accuracy, along the line, each as SVG: apart, so that a narrow screen can put one below the other."""
    return [_svg(_picture([partial(_draw_path, paths, chart, True)], "svg")) for chart in CHARTS]


def path_figure(paths: SitePaths) -> str:
    """Loss and accuracy along the line, naive and aligned, as one SVG."""
    return _svg(path_picture(paths, "svg"))


def path_picture(paths: SitePaths, form: Literal["svg", "png"], title: str = "") -> bytes:
    """Loss and accuracy along the line, naive and aligned, below the lines of ``title``."""
    draws = [partial(_draw_path, paths, chart, not number) for number, chart in enumerate(CHARTS)]
    return _picture(draws, form, title)


def course_charts(rounds: Sequence[RoundRecord]) -> list[str]:
    """Accuracy, and barrier where it was probed, round by round, as SVG; none with fewer than two merges."""
    merged = [record for record in rounds if record.merged is not None]
    if len(merged) < 2:
        return []
    probed = [record for record in merged if record.barrier is not None]
    # Of all rounds: the first that merged, before which sites were alone, may have no score.
    draws = [
        partial(_draw_accuracy, merged, sites_alone(rounds)),
        *([partial(_draw_barrier, probed)] if probed else []),
    ]
    return [_svg(_picture([draw], "svg")) for draw in draws]


def _picture(draws: Sequence[Draw], form: Literal["svg", "png"], title: str = "") -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(draws), 3), layout="constrained")
        for number, draw in enumerate(draws, 1):
            axes = figure.add_subplot(1, len(draws), number)
            draw(axes)
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        if title:
            told = "\n".join(fill(line, TITLE_WIDTH * len(draws)) for line in title.splitlines())
            # A name may have dollars in it, which would be a formula.
            figure.suptitle(told, fontsize="medium", parse_math=False)
        figure.patch.set_alpha(0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
    return buffer.getvalue()


def _svg(picture: bytes) -> str:
    svg = picture.decode()
    return svg[svg.index("<svg") :]


def _draw_path(paths: SitePaths, chart: tuple[str, str], legend: bool, axes: Axes) -> None:
    name, unit = chart
    for label, path, colour in _lines(paths):
        axes.plot(path.lambdas, getattr(path, name), color=colour, label=label, marker=".")
    axes.set_xlabel("λ")
    axes.set_ylabel(unit)
    if legend:
        _legend(axes)


def _lines(paths: SitePaths) -> list[tuple[str, PathRecord, str]]:
    naive = [] if paths.naive is None else [("naive", paths.naive, NAIVE_COLOUR)]
    return [*naive, ("aligned", paths.aligned, ALIGNED_COLOUR)]


def _draw_accuracy(merged: Sequence[RoundRecord], alone: Mapping[str, Score], axes: Axes) -> None:
    scores = [(record.round, network_scores(record, alone)) for record in merged]
    for name, label, colour in NETWORKS:
        points = [(number, found[name].accuracy) for number, found in scores if name in found]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o")
    axes.set_ylabel("accuracy")
    _by_round(axes)


def _draw_barrier(probed: Sequence[RoundRecord], axes: Axes) -> None:
    barriers = [(record.round, record.barrier) for record in probed if record.barrier is not None]
    naive = [(number, barrier.naive) for number, barrier in barriers if barrier.naive is not None]
    if naive:
        axes.plot(*zip(*naive, strict=True), color=NAIVE_COLOUR, label="naive", marker="o")
    aligned = [barrier.aligned for _, barrier in barriers]
    axes.plot([number for number, _ in barriers], aligned, color=ALIGNED_COLOUR, label="aligned", marker=".")
    axes.set_ylabel("barrier, nats")
    axes.set_ylim(bottom=0)
    _by_round(axes)


def _by_round(axes: Axes) -> None:
    axes.set_xlabel("round")
    last = max(float(number) for line in axes.get_lines() for number in np.asarray(line.get_xdata()))
    further = MaxNLocator(nbins=8, integer=True).tick_values(1, last)
    axes.set_xticks([1, *(int(tick) for tick in further if 1 < tick <= last)])
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the lines: inside it may lie on one. Three names have no room beside each other."""
    n_columns = 2 if len(axes.get_lines()) < 3 else 1
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=n_columns, borderaxespad=0)

"""``report.html``: a run on one self-contained page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from jinja2 import Environment
from matplotlib.figure import Figure

from server.page import PAGE
from server.records import PathRecord, RoundRecord, Score, SitePaths
from server.store import RunStore
from server.summary import read_rounds, summarise

NAIVE_COLOUR = "#c2571a"
ALIGNED_COLOUR = "#1a7fc2"
MOST_FIGURES = 8
CHARTS = (("losses", "loss, nats"), ("accuracies", "accuracy"))
GREY = "#808080"  # legible on white and on black
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


def write_report(store: RunStore, seconds: float = 0.0, pooled: Score | None = None) -> Path:
    """Writes the page and ``result.json`` from the run store, and returns the page's path."""
    summary = summarise(store, seconds, pooled)
    rounds = read_rounds(store)
    merge = next((record for record in rounds if record.paths), None)
    store.write_json("result.json", summary.model_dump())
    page = Environment(autoescape=True).from_string(PAGE)
    return store.write_text(
        "report.html",
        page.render(
            summary=summary,
            rounds=rounds,
            figures=[_figure(merge, site, paths) for site, paths in _shown(merge)] if merge else [],
        ),
    )


def _shown(merge: RoundRecord) -> list[tuple[str, SitePaths]]:
    return list(merge.paths.items())[:MOST_FIGURES]


def _figure(record: RoundRecord, site: str, paths: SitePaths) -> dict[str, object]:
    naive = "not known" if paths.naive is None else f"{paths.naive.barrier:.3f}"
    return {
        "title": f"Round {record.round}: from {record.reference} (λ = 0) to {site} (λ = 1)",
        "caption": f"barrier naive {naive}, aligned {paths.aligned.barrier:.3f} nats; "
        "BatchNorm statistics are recomputed on all sites at every λ, the ends included",
        # Apart, so that a narrow screen can put one below the other.
        "charts": [_svg(_picture(paths, (chart,), "svg")) for chart in CHARTS],
    }


def path_figure(paths: SitePaths) -> str:
    """Loss and accuracy along the line, naive and aligned, as SVG: the same bytes for the same numbers."""
    return _svg(path_picture(paths, "svg"))


def path_picture(paths: SitePaths, form: Literal["svg", "png"]) -> bytes:
    """Loss and accuracy along the line, naive and aligned: the same bytes for the same numbers."""
    return _picture(paths, CHARTS, form)


def _svg(picture: bytes) -> str:
    svg = picture.decode()
    return svg[svg.index("<svg") :]


def _picture(paths: SitePaths, charts: Sequence[tuple[str, str]], form: Literal["svg", "png"]) -> bytes:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4 * len(charts), 3), layout="constrained")
        for number, (name, unit) in enumerate(charts, 1):
            axes = figure.add_subplot(1, len(charts), number)
            for label, path, colour in _lines(paths):
                axes.plot(path.lambdas, getattr(path, name), color=colour, label=label, marker=".")
            axes.set_xlabel("λ")
            axes.set_ylabel(unit)
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
            if number == 1:
                axes.legend(frameon=False)
        figure.patch.set_alpha(0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
    return buffer.getvalue()


def _lines(paths: SitePaths) -> list[tuple[str, PathRecord, str]]:
    naive = [] if paths.naive is None else [("naive", paths.naive, NAIVE_COLOUR)]
    return [*naive, ("aligned", paths.aligned, ALIGNED_COLOUR)]

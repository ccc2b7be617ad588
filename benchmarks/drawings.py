"""The figures of docs/alignment.md, as SVG that is legible on white and on black."""

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment import Barrier
from server.drawing import ALIGNED_COLOUR, GREY, NAIVE_COLOUR, STYLE
from strategies.files import write_bytes

COLOURS = {"naive": NAIVE_COLOUR, "weights": ALIGNED_COLOUR, "activations": "#2e9e4f", "straight-through": "#9a6fb0"}
MARKERS = {"naive": "o", "weights": "s", "activations": "^", "straight-through": "D"}
RED = "#c23b3b"
# Of figures with many panels.
PANELS: dict[Any, Any] = {**STYLE, "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"}
UNITS = ("#c2571a", "#1a7fc2", "#2e9e4f")


def draw_paths(folder: Path, paths: Mapping[str, Barrier]) -> Path:
    """Loss and accuracy on the lines between two networks, one for each method."""

    def draw(figure: Figure) -> None:
        for axes, name, unit in zip(
            figure.subplots(1, 2), ("losses", "accuracies"), ("loss, nats", "accuracy"), strict=True
        ):
            for method, path in paths.items():
                values: Sequence[float] = getattr(path, name)
                axes.plot(path.lambdas, values, color=COLOURS[method], marker=MARKERS[method], ms=3, label=method)
            axes.set(xlabel="λ", ylabel=unit)
            _bare(axes)
        figure.axes[0].legend(frameon=False)

    return _write(folder / "path.svg", (8, 3), draw)


def draw_widths(folder: Path, barriers: Mapping[str, Mapping[int, float]]) -> Path:
    """The barrier by width, one line for each method."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for method, by_width in barriers.items():
            widths, heights = list(by_width), list(by_width.values())
            axes.plot(widths, heights, color=COLOURS[method], marker=MARKERS[method], label=method)
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths_of(barriers), [str(width) for width in widths_of(barriers)])
        axes.set(xlabel="channels of the first stage", ylabel="barrier, nats", ylim=(0, None))
        _bare(axes)
        axes.legend(frameon=False)

    return _write(folder / "width.svg", (5, 3), draw)


def draw_symmetry(folder: Path) -> Path:
    """Two drawings of one function: hidden units in another order, each with its own weights."""

    def draw(figure: Figure) -> None:
        titles = ("a network", "the same function: P W₁, W₂ Pᵀ")
        for axes, order, title in zip(figure.subplots(1, 2), ((0, 1, 2), (2, 0, 1)), titles, strict=True):
            _network(axes, order)
            axes.set_title(title)

    return _write(folder / "symmetry.svg", (7, 2.6), draw)


def widths_of(barriers: Mapping[str, Mapping[int, float]]) -> list[int]:
    """The widths of the first line."""
    return list(next(iter(barriers.values())))


def _network(axes: Axes, order: Sequence[int]) -> None:
    inputs, outputs = (0.5, 1.5), (0.5, 1.5)
    for place, unit in enumerate(reversed(order)):
        for start, end in product(inputs, outputs):
            axes.plot([0, 1], [start, place], color=UNITS[unit], lw=1.5, zorder=1)
            axes.plot([1, 2], [place, end], color=UNITS[unit], lw=1.5, zorder=1)
        axes.scatter([1], [place], s=260, color=UNITS[unit], zorder=2)
        axes.text(1, place, "abc"[unit], color="white", ha="center", va="center_baseline", zorder=3)
    axes.scatter([0, 0, 2, 2], [*inputs, *outputs], s=200, color=GREY, zorder=2)
    for column, label in enumerate(("inputs", "hidden", "outputs")):
        axes.text(column, -0.6, label, ha="center", va="top")
    axes.set(xlim=(-0.4, 2.4), ylim=(-1.1, 2.5))
    axes.axis("off")


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)


def _write(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> Path:
    style: dict[Any, Any] = STYLE | {"axes.titlecolor": GREY, "axes.titlesize": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.patch.set_alpha(0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return write_bytes(path, buffer.getvalue())

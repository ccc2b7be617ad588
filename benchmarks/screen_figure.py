"""docs/images/observing.svg: what the Federation dashboard shows of the recorded run.

``python -m benchmarks.screen_figure`` draws it from tests/observability/recorded, which `benchmarks.record` made.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.drawings import PANELS, RED
from server.drawing import ALIGNED_COLOUR, GREY, NAIVE_COLOUR
from server.records import RoundRecord
from server.scores import network_scores, sites_alone

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "observability" / "recorded" / "rounds.jsonl"
PICTURE = ROOT / "docs" / "images" / "observing.svg"


def main() -> None:
    """Draws the picture."""
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    rounds = [RoundRecord.model_validate_json(line) for line in lines]
    with mpl.rc_context(PANELS):
        figure = Figure(figsize=(10, 6), layout="constrained")
        panels = (replies, barriers, accuracies, phases, moved, variances)
        for axes, draw in zip(figure.subplots(2, 3).flat, panels, strict=True):
            draw(axes, rounds)
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
        figure.savefig(PICTURE, metadata={"Date": None})


def replies(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Are the sites with us?"""
    numbers = [record.round for record in rounds]
    admitted = [len(record.weights) for record in rounds]
    axes.bar(numbers, admitted, color=ALIGNED_COLOUR, label="admitted")
    refused = [len(record.refused) for record in rounds]
    axes.bar(numbers, refused, bottom=admitted, color=RED, label="refused")
    for record in rounds:
        if record.outcome == "void":
            axes.annotate("void", (record.round, 4.1), ha="center", color=GREY)
    axes.set_title("Are the sites with us?  replies")
    axes.set_ylim(0, 6.2)
    axes.legend(frameon=False, ncols=2, loc="upper left")
    by_round(axes)


def barriers(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Did the merge help? The barrier to each site in the first merge."""
    paths = rounds[0].paths
    for offset, stage, colour in ((-0.2, "naive", NAIVE_COLOUR), (0.2, "aligned", ALIGNED_COLOUR)):
        found = [getattr(each, stage).barrier for each in paths.values()]
        axes.bar([place + offset for place in range(len(found))], found, width=0.4, color=colour, label=stage)
    axes.set_xticks(range(len(paths)), list(paths))
    axes.set_title("Did the merge help?  barrier, nats")
    axes.legend(frameon=False)


def accuracies(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Did the merge help? Accuracy of merged, of the best site alone, and of the best as it went into the merge."""
    alone = sites_alone(rounds)
    merged = [(record.round, network_scores(record, alone)) for record in rounds if record.merged is not None]
    for name, label, colour in (
        ("merged", "merged", ALIGNED_COLOUR),
        ("best_site", "best site alone", NAIVE_COLOUR),
        ("best_before_merge", "best site before the merge", GREY),
    ):
        numbers = [number for number, _ in merged]
        axes.plot(numbers, [found[name].accuracy for _, found in merged], color=colour, label=label, marker=".")
    axes.set_title("Did the merge help?  accuracy")
    axes.legend(frameon=False)
    by_round(axes)


def phases(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Where did the time go?"""
    spent: dict[str, float] = {}
    for record in rounds:
        for phase, seconds in record.seconds.items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    longest = sorted(spent, key=lambda phase: spent[phase])[-6:]
    bars = axes.barh(longest, [spent[phase] for phase in longest], color=GREY)
    axes.bar_label(bars, [f"{spent[phase]:.1f}" for phase in longest], padding=3, color=GREY)
    axes.set_xlim(right=1.2 * max(spent.values()))
    axes.set_title("Where did the time go?  seconds")


def moved(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Is alignment doing anything? The mean over sites and groups of the fraction of units moved."""
    merged = [record for record in rounds if record.outcome == "merged"]
    groups = list(next(iter(merged[0].matchings.values())).moved)
    for group in groups:
        shares = [[each.moved[group] for each in record.matchings.values()] for record in merged]
        axes.plot([record.round for record in merged], [sum(s) / len(s) for s in shares], marker=".", label=group)
    axes.set_title("Is alignment doing anything?  moved")
    axes.legend(frameon=False, fontsize=7, title=None)
    by_round(axes)


def variances(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    """Does variance collapse?"""
    merged = [record for record in rounds if record.variance]
    for layer in merged[0].variance:
        axes.plot([r.round for r in merged], [r.variance[layer] for r in merged], color=ALIGNED_COLOUR, alpha=0.6)
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set_ylim(0, 1.1)
    axes.set_title("Does variance collapse?  by layer")
    by_round(axes)


def by_round(axes: Axes) -> None:
    """Rounds are whole."""
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


if __name__ == "__main__":
    main()

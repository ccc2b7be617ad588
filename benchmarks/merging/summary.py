"""The tables of docs/merge-quality.md, each between two comments there: what the pages of all tables come to, in short.

Numbers are points of accuracy: means over the seeds, with what `_mean` and `_cell` put behind them.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from benchmarks.merging.runs import ONWARDS, Played
from benchmarks.merging.tables import (
    CORRECTED,
    WAY,
    Rows,
    accuracies,
    alone,
    best_of_both,
    by_row,
    in_order,
    points_above,
)
from benchmarks.merging.tasks import SEEDS
from benchmarks.merging.tasks import SPLITS as ORDER

END = "<!-- end of table -->"
By = Mapping[str, Sequence[Played]]
# What a merge is held against, by seed.
Other = Callable[[By], Mapping[int, float]]
ensemble: Other = partial(accuracies, title="ensemble")
site_head: Other = partial(accuracies, title="best site + logistic")
# What the page calls the merge.
MERGE = "joint + sequential + logistic"
DATA = {"digits": "digits", "cifar10": "CIFAR-10"}
COUNTS = {2: "two", 5: "five"}
WIDTHS = (16, 32)
SPLITS = {"disjoint": "disjoint", "dirichlet": "Dirichlet", "biased": "biased", "iid": "equal data"}
HOLD = {
    "disjoint": "no class in common (disjoint)",
    "dirichlet": "very different numbers of each class (Dirichlet)",
    "biased": "all classes, in shares such as 80:20 (biased)",
    "iid": "equal shares of all (equal data)",
}
FEDERATIONS = {f"{COUNTS[n]} sites, width {width}": (width, n) for n in COUNTS for width in WIDTHS}
LEVERS_OF = (("digits", 16), ("cifar10", 16), ("cifar10", 32))
# Where rounds of means start from; the other methods do more than means.
STARTS = ("rounds", "rounds-none", "rounds-site", "rounds-scratch", "rounds-merge", "rounds-merge-slow")
# Of each merge that needs no alignment: what it is without and with it.
WITHOUT = {
    "the mean": ("naive, recalibrated", "joint"),
    "that with the last layer solved": ("naive + ridge", "joint + ridge"),
    "layers in sequence, the last one solved": ("naive + sequential + ridge", "joint + sequential + ridge"),
}
# Seeds that lie further apart than this are told one by one.
APART_POINTS = 4.0
# The aims: biased labels so near to the ensemble, disjoint ones so far above a site.
NEAR_POINTS, FAR_POINTS = 2.0, 25.0


def renewed(text: str, found: Iterable[Played]) -> str:
    """The page ``text`` with every table of the runs' records. Raises ValueError where it lacks a table's comments."""
    rows = by_row(found)
    for name, table in TABLES.items():
        begin = f"<!-- table: {name} -->\n"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not begun or not ended:
            raise ValueError(f"no place for the table: expected {begin.strip()} and {END} around it")
        text = f"{before}{begin}{table(rows)}\n{END}{after}"
    return text


def what_to_set(rows: Rows) -> str:
    """What `mix = best` takes, above the best of what a site has alone."""
    held = {hold: _federations(rows, "cifar10", split) for split, hold in HOLD.items()}
    lines = [[hold, *(_cell(_best_above(played)) for played in each)] for hold, each in held.items()]
    return _table(["sites hold", *FEDERATIONS], lines)


def _best_above(played: By) -> dict[int, float]:
    return points_above({seed: got for seed, (_, got) in best_of_both(played).items()}, alone(played))


def the_merge(data: str, rows: Rows) -> str:
    """On ``data``, the merge above the best of what a site has alone, the ensemble, and `site-head`."""
    others: dict[str, Other] = {
        "a site alone": alone,
        "the ensemble": ensemble,
        "one site's network with a last layer solved on everybody's samples (`site-head`)": site_head,
    }
    of = {title: partial(_above, other=other) for title, other in others.items()}
    return _by_labels("the merge is above", of, data, rows)


def _above(played: By, other: Other) -> dict[int, float]:
    return points_above(accuracies(played, MERGE), other(played))


def alignment(data: str, rows: Rows) -> str:
    """On ``data``, what alignment (`joint`) adds to each merge that can be had without it."""
    of = {to: partial(_added, before=before, after=after) for to, (before, after) in WITHOUT.items()}
    return _by_labels("alignment adds to", of, data, rows)


def _by_labels(title: str, of: Mapping[str, Other], data: str, rows: Rows) -> str:
    """What ``of`` says of each federation, a line for each split; without those of which nothing was played."""
    found = {split: _federations(rows, data, split) for split in SPLITS}
    lines = [
        [name if split == "disjoint" else "", said, *(_cell(points(each)) for each in found[split])]
        for name, points in of.items()
        for split, said in SPLITS.items()
        if any(points(each) for others in found.values() for each in others)
    ]
    return _table([title, "labels", *FEDERATIONS], lines)


def aims(rows: Rows) -> str:
    """The merge beside what it was to reach, and how many points of that are missing.

    Missing on biased labels: the greater of what lacks to the best of what a site has alone, and to the ensemble less
    `NEAR_POINTS`; on disjoint ones, what lacks to `FAR_POINTS` above a site. By means over the seeds.
    """
    lines = [
        [f"{said}, width {width}, {COUNTS[n]} sites", *_aim(data, rows, width, n)]
        for data, said in DATA.items()
        for width in WIDTHS
        for n in COUNTS
    ]
    titles = ["", "biased: above a site", "biased: above the ensemble", "disjoint: above a site", "points missing"]
    return _table(titles, lines)


def _aim(data: str, rows: Rows, width: int, n_sites: int) -> list[str]:
    biased, disjoint = (played_of(rows, data, width, split, n_sites) for split in ("biased", "disjoint"))
    found = [_above(biased, alone), _above(biased, ensemble), _above(disjoint, alone)]
    if not all(found):
        return [*map(_mean, found), ""]
    site, near, far = (statistics.mean(each.values()) for each in found)
    lacks = {"biased": max(-site, -NEAR_POINTS - near), "disjoint": FAR_POINTS - far}
    missing = ", ".join(f"{split} {points:.1f}" for split, points in lacks.items() if points > 0)
    return [*map(_mean, found), missing or "none"]


def levers(rows: Rows) -> str:
    """What each lever on the way to the merge adds to the one before it, from the naive mean on."""
    columns = {
        f"{DATA[data]}, width {width}, {SPLITS[split]}": played_of(rows, data, width, split, 2)
        for data, width in LEVERS_OF
        for split in ("biased", "disjoint")
    }
    naive = ["naive mean, accuracy", *(_mean(accuracies(played, "naive"), ".3f") for played in columns.values())]
    lines = [
        [lever, *(_mean(_added(played, before, after), "+z.1f") for played in columns.values())]
        for lever, (before, after) in WAY.items()
    ]
    return _table(["", *columns], [naive, *lines])


def _added(played: By, before: str, after: str) -> dict[int, float]:
    return points_above(accuracies(played, after), accuracies(played, before))


def onwards(starts: Sequence[str], rows: Rows) -> str:
    """In which round each start passes the best corrected site, seed by seed, and its mean accuracy after the last."""
    every = {
        f"{DATA[data]}, width {width}, {COUNTS[n]} sites, {SPLITS[split]}": played_of(rows, data, width, split, n)
        for data in DATA
        for width, n in FEDERATIONS.values()
        for split in ORDER
    }
    found = {title: played for title, played in every.items() if any(method in played for method in starts)}
    starts = [method for method in starts if any(method in played for played in found.values())]
    lines = [
        [title, _beside(starts, played), *(_onwards(method, played) for method in starts)]
        for title, played in found.items()
    ]
    return _table(["", "best corrected site", *(f"`{method}`" for method in starts)], lines)


def _beside(starts: Sequence[str], played: By) -> str:
    seeds = {run.task.seed for method in starts for run in played.get(method, ())}
    best = accuracies(played, CORRECTED)
    return in_order({seed: f"{accuracy:.3f}" for seed, accuracy in best.items() if seed in seeds}, "; ")


def _onwards(method: str, played: By) -> str:
    best = accuracies(played, CORRECTED)
    merged = {run.task.seed: by_round(run) for run in played.get(method, ()) if run.rounds[-1].merged}
    known = {seed: found for seed, found in merged.items() if seed in best}
    if not known:
        return ""
    passes = in_order({seed: _passes(found, best[seed]) for seed, found in known.items()}, "/")
    return f"{passes}, {statistics.mean([*found.values()][-1] for found in known.values()):.3f}"


def by_round(run: Played) -> dict[int, float]:
    """The accuracy of what was merged, by round."""
    return {number: each.merged.accuracy for number, each in enumerate(run.rounds, 1) if each.merged}


def _passes(merged: Mapping[int, float], best: float) -> str:
    return str(next((number for number, accuracy in merged.items() if accuracy > best), "no"))


def _federations(rows: Rows, data: str, split: str) -> list[By]:
    return [played_of(rows, data, width, split, n) for width, n in FEDERATIONS.values()]


def played_of(rows: Rows, data: str, width: int, split: str, n_sites: int) -> By:
    """The runs of a task's seeds, by method; none where it was not played."""
    return rows.get(f"{data}-w{width}-{split}-{n_sites}", {})


def _mean(found: Mapping[int, float], form: str = "z.1f") -> str:
    """The mean; behind it how many seeds it is of, where these are fewer than others have."""
    if not found:
        return ""
    mean = format(statistics.mean(found.values()), form)
    return mean if len(found) >= SEEDS else f"{mean} ({len(found)})"


def _cell(found: Mapping[int, float]) -> str:
    """The same; but behind it each seed's value, where they lie more than `APART_POINTS` apart."""
    if not found or max(found.values()) - min(found.values()) <= APART_POINTS:
        return _mean(found)
    each = in_order({seed: f"{value:z.1f}" for seed, value in found.items()})
    return f"{statistics.mean(found.values()):z.1f} ({each})"


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *lines)])


TABLES: Mapping[str, Callable[[Rows], str]] = {
    "what to set": what_to_set,
    "the merge": partial(the_merge, "cifar10"),
    "the merge, digits": partial(the_merge, "digits"),
    "alignment": partial(alignment, "cifar10"),
    "alignment, digits": partial(alignment, "digits"),
    "aims": aims,
    "levers": levers,
    "rounds": partial(onwards, STARTS),
    "rounds, other ways": partial(onwards, [method for method in ONWARDS if method not in STARTS]),
}

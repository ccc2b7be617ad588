"""The tables of docs/merge-quality.md, each between two comments there: what the pages of all tables come to, in short.

Numbers are points of accuracy: means over the seeds, with what `_mean` and `_cell` put behind them.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.merging.runs import Played
from benchmarks.merging.tables import Rows, accuracies, alone, best_of_both, by_row, points_above
from benchmarks.merging.tasks import SEEDS

END = "<!-- end of table -->"
By = Mapping[str, Sequence[Played]]
# The last layer of what the page calls the merge.
HEAD = {"digits": "ridge", "cifar10": "logistic"}
DATA = {"digits": "digits", "cifar10": "CIFAR-10"}
COUNTS = {2: "two", 5: "five"}
WIDTHS = (16, 32)
SPLITS = {"disjoint": "disjoint", "dirichlet": "Dirichlet", "biased": "biased", "iid": "equal data"}
HOLD = {
    "disjoint": "no class in common (disjoint)",
    "dirichlet": "very different numbers of each class (Dirichlet)",
    "biased": "all classes, in shares such as 80:20 (biased)",
    "iid": "equal shares of all",
}
FEDERATIONS = {f"{COUNTS[n]} sites, width {width}": (width, n) for n in COUNTS for width in WIDTHS}
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
    lines = [
        [hold, *(_cell(_best_above(_of(rows, "cifar10", width, split, n))) for width, n in FEDERATIONS.values())]
        for split, hold in HOLD.items()
    ]
    return _table(["sites hold", *FEDERATIONS], lines)


def _best_above(played: By) -> dict[int, float]:
    return points_above({seed: got for seed, (_, got) in best_of_both(played).items()}, alone(played))


def the_merge(rows: Rows) -> str:
    """The merge above the best of what a site has alone, the ensemble, and `site-head`."""
    above: dict[str, Callable[[By], Mapping[int, float]]] = {
        "a site alone": alone,
        "the ensemble": lambda played: accuracies(played, "ensemble"),
        "one site's network with a last layer solved on everybody's samples (`site-head`)": lambda played: accuracies(
            played, "best site + logistic"
        ),
    }
    lines = [
        [
            title if split == "disjoint" else "",
            said,
            *(
                _cell(_above("cifar10", _of(rows, "cifar10", width, split, n), other))
                for width, n in FEDERATIONS.values()
            ),
        ]
        for title, other in above.items()
        for split, said in SPLITS.items()
    ]
    return _table(["the merge is above", "labels", *FEDERATIONS], lines)


def _above(data: str, played: By, other: Callable[[By], Mapping[int, float]]) -> dict[int, float]:
    return points_above(accuracies(played, f"joint + sequential + {HEAD[data]}"), other(played))


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
    biased, disjoint = (_of(rows, data, width, split, n_sites) for split in ("biased", "disjoint"))
    found = [
        _above(data, biased, alone),
        _above(data, biased, lambda played: accuracies(played, "ensemble")),
        _above(data, disjoint, alone),
    ]
    if not all(found):
        return [*map(_mean, found), ""]
    site, ensemble, far = (statistics.mean(each.values()) for each in found)
    lacks = {"biased": max(-site, -NEAR_POINTS - ensemble), "disjoint": FAR_POINTS - far}
    missing = ", ".join(f"{split} {points:.1f}" for split, points in lacks.items() if points > 0)
    return [*map(_mean, found), missing or "none"]


def _of(rows: Rows, data: str, width: int, split: str, n_sites: int) -> By:
    return rows.get(f"{data}-w{width}-{split}-{n_sites}", {})


def _mean(found: Mapping[int, float], form: str = "z.1f") -> str:
    """The mean; behind it how many seeds it is of, where these are fewer than others have."""
    if not found:
        return ""
    mean = format(statistics.mean(found.values()), form)
    return mean if len(found) >= SEEDS else f"{mean} ({len(found)})"


def _cell(found: Mapping[int, float]) -> str:
    """The same; but behind it each seed's value, in their order, where they lie more than `APART_POINTS` apart."""
    if not found or max(found.values()) - min(found.values()) <= APART_POINTS:
        return _mean(found)
    each = ", ".join(f"{value:z.1f}" for value in found.values())
    return f"{statistics.mean(found.values()):z.1f} ({each})"


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *lines)])


TABLES: Mapping[str, Callable[[Rows], str]] = {
    "what to set": what_to_set,
    "the merge": the_merge,
    "aims": aims,
}

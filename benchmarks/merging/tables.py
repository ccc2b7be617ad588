"""The tables of `benchmarks.merging.quality`: each task over its seeds; mean, and half the range behind ±."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from benchmarks.merging.pooled import kept_pooled
from benchmarks.merging.runs import ONCE, ONWARDS, TELL_OF_SITES, Played
from server.records import Score
from strategies.names import CORRECTED as ENDING

# A network of a run's record: the method, and the network's name there; None: the one with which the run ended.
Place = tuple[str, str | None]


def _sites(name: str) -> tuple[Place, ...]:
    return tuple((method, name) for method in TELL_OF_SITES)


# What rounds are held against too.
CORRECTED = "best site, corrected"
# Of each network: its title, and where it is found, in the order of preference.
COLUMNS: Mapping[str, tuple[Place, ...]] = {
    "best site": _sites("best"),
    "worst site": _sites("worst"),
    CORRECTED: _sites("best.corrected"),
    "best site + ridge": (("site-head", "head.ridge"),),
    "best site + logistic": (("site-head", None),),
    "ensemble": _sites("ensemble"),
    "naive": _sites("naive"),
    "naive, recalibrated": _sites("naive.recalibrated"),
    "weights": (("joint", "weights.recalibrated"), ("activations", "weights.recalibrated"), ("weights", None)),
    "weights + ridge": (("joint", "weights.recalibrated.ridge"),),
    "activations": (("activations", "aligned.recalibrated"),),
    "then weights": (("activations", "then-weights.recalibrated"),),
    "joint": (("ridge", "aligned.recalibrated"), ("joint", "aligned.recalibrated")),
    "joint + counts": (("joint", "aligned.recalibrated.counts"),),
    "joint + ridge": (("ridge", None), ("joint", "aligned.recalibrated.ridge")),
    "joint + least squares": (("joint", "aligned.recalibrated.least-squares"),),
    "weights + least squares": (("joint", "weights.recalibrated.least-squares"),),
    "naive + ridge": (("joint", "naive.recalibrated.ridge"),),
    "naive + sequential + ridge": (("sequential-none", None),),
    "joint + sequential": (("sequential", None),),
    "joint + sequential + ridge": (("sequential-ridge", None), ("sequential-logistic", "head.ridge")),
    "joint + sequential + logistic": (("sequential-logistic", None),),
    "joint + sequential + ridge, all samples": (("head-all", "head.ridge"),),
    "joint + sequential + logistic, all samples": (("head-all", None),),
    "joint + repair": (("repair", None),),
    "joint, 3 passes + ridge": (("passes", None),),
    "search": (("search", None),),
    "sequential + search": (("sequential-search", None),),
    "sequential + best": (("sequential-best", None),),
    "FedAvg from scratch, 14 rounds": (("fedavg", None),),
    "pooled training": (),
}
# What can be had without a merge, of which the most accurate counts, and of losses the least.
ALONE = ("best site", CORRECTED)
HEADS = ("ridge", "logistic")
# Levers on the way to the best merge, each with the network that it adds to and the one that it gives; and all levers.
WAY: Mapping[str, tuple[str, str]] = {
    "recalibration": ("naive", "naive, recalibrated"),
    "alignment by weights": ("naive, recalibrated", "weights"),
    "by activations too (`joint`)": ("weights", "joint"),
    "the ridge head": ("joint", "joint + ridge"),
    "layers in sequence": ("joint + ridge", "joint + sequential + ridge"),
    "the logistic head": ("joint + sequential + ridge", "joint + sequential + logistic"),
}
LEVERS: Mapping[str, tuple[str, str]] = {
    **WAY,
    "class counts, to `joint`": ("joint", "joint + counts"),
    "least squares at once, to `joint`": ("joint", "joint + least squares"),
    "least squares at once, to weights": ("weights", "weights + least squares"),
    "the ridge head, without alignment": ("naive, recalibrated", "naive + ridge"),
    "search, to `joint + ridge`": ("joint + ridge", "search"),
}
COST = "seconds, MB from a site, MB to it"
# Methods whose runs measure the lines between networks.
PROBED = ("weights", "activations", "joint")
Rows = Mapping[str, Mapping[str, Sequence[Played]]]


def tables(found: Iterable[Played]) -> str:
    """One table in Markdown for each quantity, and one for the rounds that follow."""
    return "\n\n".join("\n".join(lines) for lines in _tables(by_row(found)) if lines)


def _tables(rows: Rows) -> Iterator[list[str]]:
    for quantity in ("accuracy", "loss"):
        yield _networks(quantity, rows)
    yield _each_site(rows)
    for head in HEADS:
        merge, others = f"joint + sequential + {head}", (f"best site + {head}", "ensemble")
        titles = [f"{merge}, points above", "best alone", "nats above it", *others]
        yield _table(titles, rows, partial(_above, merge, others))
    yield _table(["`best`, of both by ridge loss", "takes", "points above best alone", "above the merge"], rows, _best)
    yield _shares(rows)
    yield _table(["barrier", "naive", *PROBED], rows, _barriers)
    ways = [method for method in ONCE if any(method in played for played in rows.values())]
    yield _table([f"cost: {COST}", *ways], rows, lambda played: [_cost(played.get(method, ())) for method in ways])
    further = {row: played for row, played in rows.items() if any(method in played for method in ONWARDS)}
    for row, played in further.items():
        onwards = {run.task.name for method in ONWARDS for run in played.get(method, ())}
        of_onwards = {method: [run for run in runs if run.task.name in onwards] for method, runs in played.items()}
        yield [f"{row}: best corrected site {_spread(list(accuracies(of_onwards, CORRECTED).values()))}"]
        by_method = {method: {method: played[method]} for method in ONWARDS if method in played}
        yield _table(["accuracy after", "seeds", "merge", *(f"round {n}" for n in range(2, 6))], by_method, _rounds)


def by_row(found: Iterable[Played]) -> dict[str, dict[str, list[Played]]]:
    """The runs by task without its seed, then by method."""
    rows: dict[str, dict[str, list[Played]]] = {}
    for each in found:
        rows.setdefault(each.task.row, {}).setdefault(each.method, []).append(each)
    return rows


def scores_of(played: Mapping[str, Sequence[Played]], title: str) -> list[Score]:
    """What one line of the table has of a task, seed by seed."""
    return list(by_seed(played, title).values())


def by_seed(played: Mapping[str, Sequence[Played]], title: str) -> dict[int, Score]:
    """The same, with the seeds that have it."""
    if title == "pooled training":
        tasks = {run.task.seed: run.task for runs in played.values() for run in runs}
        return {seed: score for seed, task in tasks.items() if (score := kept_pooled(task)) is not None}
    return _found(played, COLUMNS[title])


def _found(played: Mapping[str, Sequence[Played]], places: Sequence[Place]) -> dict[int, Score]:
    """By seed, what lies at the first of these places that has it."""
    found: dict[int, Score] = {}
    for method, name in reversed(places):
        found |= {run.task.seed: score for run in played.get(method, ()) if (score := _score(run, name)) is not None}
    return dict(sorted(found.items()))


def accuracies(played: Mapping[str, Sequence[Played]], title: str) -> dict[int, float]:
    """The accuracies of one line of the table, by seed."""
    return {seed: score.accuracy for seed, score in by_seed(played, title).items()}


def alone(played: Mapping[str, Sequence[Played]]) -> dict[int, float]:
    """The best accuracy that a site has without a merge, corrected or not, by seed."""
    first, *others = (accuracies(played, title) for title in ALONE)
    return {
        seed: max(value, *(one[seed] for one in others))
        for seed, value in first.items()
        if all(seed in one for one in others)
    }


def points_above(got: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """100 (got - other), by seed, over the seeds that have both accuracies."""
    return {seed: 100 * (got[seed] - other[seed]) for seed in got if seed in other}


def _table(
    titles: Sequence[str], rows: Rows, cells: Callable[[Mapping[str, Sequence[Played]]], list[str]]
) -> list[str]:
    """The lines of a table; none where no row has a cell."""
    lines = [f"| {row} | " + " | ".join(found) + " |" for row, played in rows.items() if any(found := cells(played))]
    return ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|", *lines] if lines else []


def _networks(quantity: Literal["accuracy", "loss"], rows: Rows) -> list[str]:
    """A line for each network that was measured, a column for each task; (n) behind what fewer seeds say."""
    seeds = [len({run.task.seed for runs in played.values() for run in runs}) for played in rows.values()]
    lines = [
        "| " + " | ".join([quantity, *rows]) + " |",
        "| --- " * (len(rows) + 1) + "|",
        "| seeds | " + " | ".join(map(str, seeds)) + " |",
    ]
    for title in COLUMNS:
        scores = [scores_of(played, title) for played in rows.values()]
        if any(scores):
            values = [[getattr(score, quantity) for score in found] for found in scores]
            lines.append(f"| {title} | " + " | ".join(map(_spread, values, seeds)) + " |")
    return lines


def _each_site(rows: Rows) -> list[str]:
    """The accuracy of each site's network, as it is and corrected, the mean over the seeds."""
    runs = (run for played in rows.values() for each in played.values() for run in each)
    sites = list(dict.fromkeys(site for run in runs for site in sorted(run.first.weights)))
    return _table(
        ["each site alone; corrected", *sites],
        rows,
        lambda played: [_alone_and_corrected(played, site) for site in sites],
    )


def _alone_and_corrected(played: Mapping[str, Sequence[Played]], site: str) -> str:
    found = [_found(played, _sites(name)).values() for name in (site, site + ENDING)]
    return "; ".join(f"{statistics.mean(score.accuracy for score in scores):.3f}" for scores in found if scores)


def _above(merge: str, others: Sequence[str], played: Mapping[str, Sequence[Played]]) -> list[str]:
    """By how much a merge is above the best of what a site has alone, in accuracy and in loss, and above the others."""
    best = alone(played)
    scores = {seed: score for seed, score in by_seed(played, merge).items() if seed in best}
    if not scores:
        return []
    got = {seed: score.accuracy for seed, score in scores.items()}
    losses = [by_seed(played, title) for title in ALONE]
    nats = {seed: score.loss - min(one[seed].loss for one in losses) for seed, score in scores.items()}
    beside = [points_above(got, accuracies(played, title)) for title in others]
    return [
        _by_seeds(points_above(got, best), 1),
        _by_seeds(nats, 3),
        *(_by_seeds(found, 1) for found in beside),
    ]


def best_of_both(played: Mapping[str, Sequence[Played]]) -> dict[int, tuple[str, float]]:
    """What `mix = best` has to choose from, in the runs that measured them apart: the one with less loss by ridge.

    By seed: `merge` or `site`, and the accuracy of what is taken, with the logistic head.
    """
    networks = {"merge": "joint + sequential", "site": "best site"}
    ways = {name: {head: by_seed(played, f"{title} + {head}") for head in HEADS} for name, title in networks.items()}
    every = [found for way in ways.values() for found in way.values()]
    seeds = [seed for seed in every[0] if all(seed in found for found in every)]
    taken = {seed: min(ways, key=lambda name: ways[name]["ridge"][seed].loss) for seed in seeds}
    return {seed: (name, ways[name]["logistic"][seed].accuracy) for seed, name in taken.items()}


def _best(played: Mapping[str, Sequence[Played]]) -> list[str]:
    """By seed what is taken, and by how much that is above the best of what a site has alone and above the merge."""
    best = alone(played)
    taken = {seed: each for seed, each in best_of_both(played).items() if seed in best}
    if not taken:
        return []
    got = {seed: accuracy for seed, (_, accuracy) in taken.items()}
    names = ", ".join(f"s{seed} {name}" for seed, (name, _) in taken.items())
    merge = accuracies(played, "joint + sequential + logistic")
    return [names, *(_by_seeds(points_above(got, other), 1) for other in (best, merge))]


def _shares(rows: Rows) -> list[str]:
    """A line for each lever: by how many points of accuracy it moves a merge, over the seeds that have both."""
    lines: list[str] = []
    for lever, (before, after) in LEVERS.items():
        gains = [points_above(accuracies(played, after), accuracies(played, before)) for played in rows.values()]
        shares = [_gain(list(found.values())) for found in gains]
        if any(shares):
            lines.append(f"| {lever} | " + " | ".join(shares) + " |")
    return ["| points that each adds | " + " | ".join(rows) + " |", "| --- " * (len(rows) + 1) + "|", *lines]


def _gain(gains: Sequence[float]) -> str:
    spread = f" ± {(max(gains) - min(gains)) / 2:.1f}" if len(gains) > 1 else ""
    return f"{statistics.mean(gains):+.1f}{spread}" if gains else ""


def _by_seeds(found: Mapping[int, float], digits: int) -> str:
    """Mean, and what it is of: each seed's value, behind its number where it is not the next from 0."""
    if not found:
        return ""
    each = in_order({seed: f"{value:+.{digits}f}" for seed, value in found.items()})
    return f"{statistics.mean(found.values()):+.{digits}f} ({each})"


def in_order(found: Mapping[int, str], between: str = ", ") -> str:
    """What each seed has, behind its number where these are not the seeds from 0 on."""
    whole = list(found) == list(range(len(found)))
    return between.join(found.values() if whole else [f"s{seed} {said}" for seed, said in found.items()])


def _barriers(played: Mapping[str, Sequence[Played]]) -> list[str]:
    """Of the line between the networks as they came, the same in every method's runs, and of the lines once aligned."""
    told = [{run.task.name: run.first.barrier for run in played.get(method, ())} for method in PROBED]
    naive = {name: each for barriers in told for name, each in barriers.items()}.values()
    lines = [
        [barrier.naive for barrier in naive if barrier and barrier.naive is not None],
        *([barrier.aligned for barrier in each.values() if barrier] for each in told),
    ]
    most = max(map(len, lines))
    return [_spread(found, most) for found in lines]


def _cost(runs: Sequence[Played]) -> str:
    """Seconds, the median of the seeds; bytes, which hardly vary, of the last, and there of the site that has most."""
    if not runs:
        return ""
    seconds = statistics.median(sum(run.first.seconds.values()) for run in runs)
    last = max(runs, key=lambda run: run.task.seed).first
    received, sent = (max(getattr(each, way) for each in last.traffic.values()) / 1e6 for way in ("received", "sent"))
    return f"{seconds:.0f} s, {received:.1f}, {sent:.1f}"


def _rounds(played: Mapping[str, Sequence[Played]]) -> list[str]:
    (runs,) = played.values()
    accuracies = [[r.rounds[n].merged.accuracy for r in runs if r.rounds[n].merged] for n in range(5)]  # pyright: ignore[reportOptionalMemberAccess]
    return [str(len(runs)), *map(_spread, accuracies)]


def _score(run: Played, name: str | None) -> Score | None:
    if name is None:
        return run.rounds[-1].merged
    if name.startswith(("best", "worst")):
        return _of_sites(run, name)
    if name == "head.ridge":
        return run.first.head.ridge if run.first.head is not None else None
    return run.first.baselines.get(name)


def _of_sites(run: Played, name: str) -> Score:
    """The ``best`` or ``worst`` of the sites' networks, or of them with the ``.corrected`` ending."""
    which, dot, ending = name.partition(".")
    sites = [run.first.baselines[site + dot + ending] for site in run.first.weights]
    return (max if which == "best" else min)(sites, key=lambda score: score.accuracy)


def _spread(values: Sequence[float], seeds: int = 0) -> str:
    """Mean, and half the range behind ±; marked where fewer than so many ``seeds`` speak."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    spread = mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"
    return spread if len(values) >= seeds else f"{spread} ({len(values)})"

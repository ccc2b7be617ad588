"""What a merge is worth on tables of numbers: real Flower runs, one after another, and one table in Markdown.

python -m benchmarks.tables --seeds 3

Finished runs are kept below `cache_folder()`, and not played twice. ``--format json`` has what every seed has.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import track
from sklearn import metrics

from benchmarks.merging.images import cache_folder
from benchmarks.merging.runs import finish
from cli.flower import SuperLink
from cli.interrupts import terminable
from cli.pooled import parts_of, pooled_network, union
from cli.superlink import local_superlink, short_folder
from client.answers import judge, outputs
from client.data import SiteData
from client.own import own_path
from client.site import Site
from client.sources import Samples
from models import Architecture, build
from server.records import RoundRecord, Score
from server.store import RunStore
from server.summary import read_rounds
from server.variants import RIDGE
from strategies.names import ALIGNED, CORRECTED, ENSEMBLE, NAIVE, RECALIBRATED
from strategies.settings import Settings, parse_settings
from strategies.tensor_files import read_tensors

# Of each table the shape of a row, and the number of classes.
TABLES = {"breast_cancer": ("30", 2), "rare": ("20", 2), "wine": ("13", 3)}
SPLITS = ("disjoint", "dirichlet", "biased", "iid")
COMMON: dict[str, object] = {"model": "mlp", "width": 64, "depth": 2, "rounds": 1}
RECIPE, LOGISTIC = "recipe", "logistic"
METHODS: dict[str, dict[str, object]] = {
    # What docs/merge-quality.md says to set; beside it the sites, their ensemble, and plainer merges of them.
    RECIPE: {"merge": "sequential", "head": "logistic", "mix": "best", "baselines": True, "variants": True},
    LOGISTIC: {"head": "logistic"},
}
MEANS = {
    "naive": NAIVE,
    "naive + ridge": NAIVE + RECALIBRATED + RIDGE,
    "aligned": ALIGNED,
    "aligned + ridge": ALIGNED + RECALIBRATED + RIDGE,
}
MEASURES = ("accuracy", "balanced accuracy", "loss")
progress = Console(stderr=True)


@dataclass(frozen=True)
class Task:
    """One table, divided among the sites of one federation."""

    table: str
    split: str
    n_sites: int
    seed: int

    @property
    def name(self) -> str:
        """Such as ``rare-biased-3-s0``."""
        return f"{self.table}-{self.split}-{self.n_sites}-s{self.seed}"

    @property
    def config(self) -> dict[str, object]:
        """The run config, but for the method and the place."""
        shape, classes = TABLES[self.table]
        data = {"data": f"benchmarks.table_data:{self.table}", "shape": shape, "classes": classes}
        return COMMON | data | {"split": self.split, "seed": self.seed, "min-sites": self.n_sites}

    def settings(self, method: str) -> Settings:
        """Those of a run, with its place."""
        place = {"run": f"{self.name}-{method}", "runs-dir": str((cache_folder() / "tables").resolve())}
        return parse_settings(self.config | METHODS[method] | place)

    def store(self, method: str) -> RunStore:
        """Where a run leaves its results."""
        found = self.settings(method)
        return RunStore(Path(found.runs_dir) / found.run)


@dataclass(frozen=True)
class Found:
    """What a network has on the union of held-out samples; the balanced accuracy where the network is at hand."""

    accuracy: float
    loss: float
    balanced: float | None = None

    @classmethod
    def of(cls, score: Score, balanced: float | None = None) -> "Found":
        """The score of a record, which does not tell the classes apart."""
        return cls(score.accuracy, score.loss, balanced)

    def measure(self, name: str) -> float | None:
        """The measure that the table calls so."""
        return {"accuracy": self.accuracy, "balanced accuracy": self.balanced, "loss": self.loss}[name]


def main() -> None:
    """Plays what is asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--sites", type=int, default=3, help="how many simulated sites")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["breast_cancer", "rare"], help="these alone")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[RECIPE], help="what is played")
    parser.add_argument("--kept", action="store_true", help="play nothing")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="json has every seed's numbers")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="these alone")
    arguments = parser.parse_args()
    rows = [
        [Task(table, split, arguments.sites, seed) for seed in range(arguments.seeds)]
        for table in arguments.tables
        for split in arguments.splits
    ]
    by_seed = [task for seeds in zip(*rows, strict=True) for task in seeds]
    if not arguments.kept:
        play_all([(task, method) for method in arguments.methods for task in by_seed])
    found = {f"{row[0].table}, {row[0].split}": [networks(task) for task in row] for row in rows}
    print(table(found) if arguments.format == "table" else json.dumps(found, default=asdict, indent=1))


def play_all(wanted: Sequence[tuple[Task, str]]) -> None:
    """Plays by these methods what is not kept, one run at a time, on one SuperLink."""
    missing = [(task, method) for task, method in wanted if kept(task, method) is None]
    home = short_folder()
    try:
        if missing:
            with terminable(), local_superlink(home, 0) as link:
                for task, method in track(missing, "playing", console=progress):
                    play(link, task, method)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def play(link: SuperLink, task: Task, method: str) -> RoundRecord:
    """The one round of a run. Raises RuntimeError where it does not end well, or a reply was refused."""
    store, settings = task.store(method), task.settings(method)
    shutil.rmtree(store.directory, ignore_errors=True)
    run_id = link.submit(settings.model_dump(by_alias=True), task.n_sites)
    finish(link, run_id, store)
    if (record := kept(task, method)) is None:
        raise RuntimeError(f"{store.directory}: a reply was refused, see rounds.jsonl there; play it again")
    return record


def kept(task: Task, method: str) -> RoundRecord | None:
    """The round of a finished run that was played with today's settings and without a refused reply."""
    store = task.store(method)
    told, rounds = store.read_json("settings.json"), read_rounds(store)
    if told is None or parse_settings(told) != task.settings(method) or not rounds:
        return None
    return rounds[0] if rounds[0].merged is not None and not rounds[0].refused else None


def networks(task: Task) -> dict[str, Found]:
    """What each network has, by the title of its column; nothing for what was not played."""
    recipe, parts = kept(task, RECIPE), parts_of(task.settings(RECIPE), task.n_sites)
    seen = Seen.of(task, parts)
    pooled = seen.found(pooled_network(task.settings(RECIPE), parts).state_dict())
    merges = {f"aligned + {LOGISTIC}": LOGISTIC, RECIPE: RECIPE}
    merged = {title: found for title, method in merges.items() if (found := _merged(seen, method)) is not None}
    if recipe is None:
        return {**merged, "pooled": pooled}
    sites = {site: Found.of(recipe.baselines[site], seen.balanced(seen.own(site))) for site in recipe.weights}
    corrected = (Found.of(recipe.baselines[site + CORRECTED]) for site in sites)
    means = {title: Found.of(recipe.baselines[name]) for title, name in MEANS.items()}
    solved = {f"{RECIPE}, ridge": Found.of(recipe.head.ridge)} if recipe.head is not None else {}
    return {
        "worst site": min(sites.values(), key=_accuracy),
        "best site": max(sites.values(), key=_accuracy),
        "best site, corrected": max(corrected, key=_accuracy),
        **means,
        **solved,
        **merged,
        "ensemble": Found.of(recipe.baselines[ENSEMBLE], seen.balanced(*map(seen.own, sites))),
        "pooled": pooled,
    }


def _accuracy(found: Found) -> float:
    return found.accuracy


def _merged(seen: "Seen", method: str) -> Found | None:
    record = kept(seen.task, method)
    if record is None or record.merged is None:
        return None
    return Found.of(record.merged, seen.balanced(seen.merged(method)))


State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """Everybody's held-out samples, to judge networks that a run left by what its records do not tell."""

    task: Task
    model: torch.nn.Module
    held_out: Samples

    @classmethod
    def of(cls, task: Task, parts: Sequence[SiteData]) -> "Seen":
        """As ``parts``, the sites of ``task``, hold them out."""
        settings = task.settings(RECIPE)
        model = build(Architecture(*settings.network), settings.seed)
        return cls(task, model, union([part.held_out for part in parts]))

    def own(self, site: str) -> State:
        """The network that a site trained."""
        store = self.task.store(RECIPE)
        return read_tensors(own_path(Site(site, store.directory / "sites" / site, ""), 1))

    def merged(self, method: str) -> State:
        """The network that a run merged."""
        return self.task.store(method).network(1)

    def balanced(self, *states: State) -> float:
        """The balanced accuracy of the networks' averaged probabilities."""
        return balanced_accuracy(self._probabilities(states), self.held_out.targets)

    def found(self, state: State) -> Found:
        """All measures of a network that no run has measured."""
        sums = judge(self._probabilities([state]).log(), self.held_out.targets)
        return Found.of(Score.of(sums), self.balanced(state))

    @torch.no_grad()
    def _probabilities(self, states: Sequence[State]) -> torch.Tensor:
        return torch.stack([outputs(self.model, state, self.held_out).softmax(1) for state in states]).mean(0)


def balanced_accuracy(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean over the classes of the share of right answers to the class's samples; ``scores`` (samples, classes)."""
    return float(cast(Any, metrics).balanced_accuracy_score(targets.numpy(), scores.argmax(1).numpy()))


def table(found: Mapping[str, Sequence[Mapping[str, Found]]]) -> str:
    """A row for each federation and measure, a column for each network; cells are means over the seeds."""
    titles = list(dict.fromkeys(title for seeds in found.values() for each in seeds for title in each))
    heads = ["| " + " | ".join(["table, labels", "", *titles]) + " |", "| --- " * (len(titles) + 2) + "|"]
    return "\n".join([*heads, *_rows(found, titles)])


def _rows(found: Mapping[str, Sequence[Mapping[str, Found]]], titles: Sequence[str]) -> Iterator[str]:
    for row, seeds in found.items():
        for measure in MEASURES:
            cells = [
                _cell([each[title].measure(measure) for each in seeds if title in each], len(seeds)) for title in titles
            ]
            yield f"| {row} | {measure} | " + " | ".join(cells) + " |"


def _cell(values: Sequence[float | None], n_seeds: int) -> str:
    """The mean; behind it of how many seeds, where others have more."""
    known = [value for value in values if value is not None]
    fewer = f" ({len(known)})" if len(known) < n_seeds else ""
    return f"{statistics.mean(known):.3f}{fewer}" if known else ""


if __name__ == "__main__":
    main()

"""One real Flower run of a task by one method; its record is kept, and a run that is there is not played again."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.merging.images import cache_folder
from benchmarks.merging.pooled import pooled_path
from benchmarks.merging.tasks import Task
from benchmarks.merging.trainings import Training, make
from cli.flower import SuperLink
from server.live import ENDS
from server.records import RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.files import write_text
from strategies.settings import parse_settings

# Every network that a one-shot merge could be: measured once the sites' networks are there.
ONE_SHOT: dict[str, object] = {"rounds": 1, "baselines": True, "variants": True, "probe-points": 7, "guard": False}
# Sites of CIFAR-10 hold thousands of images, and two cores compute for all of them.
FEWER: dict[str, object] = {"statistics-samples": 2000, "path-samples": 1000, "mix-points": 6}
# A run that died without a word to its store is noticed by then.
ASKS_SECONDS = 60.0
CHECKPOINT = "checkpoint.safetensors"
SETTINGS = "settings.json"
# Where a run lay, which is no part of what it measured.
PLACE = ("run", "runs-dir", "initial")
ROUNDS: dict[str, object] = {"rounds": 5, "probe-points": 0, "guard": False, "later-epochs": 1}
SEQUENTIAL: dict[str, object] = {
    "rounds": 1,
    "align-at": "both",
    "site-matching": "joint",
    "merge": "sequential",
    "probe-points": 0,
    "guard": False,
}
# The aligned mean with its last layer solved.
PLAIN: dict[str, object] = {"rounds": 1, "align-at": "both", "head": "ridge", "probe-points": 0, "guard": False}
# In place of a path: the network of the site that is best alone, which a run of `TELL_OF_SITES` tells. Any other word
# is the method whose merge is meant.
BEST = "best"
# A tenth of the default step of later rounds.
SLOW: dict[str, object] = {"later-learning-rate": 0.002}
ONCE: dict[str, dict[str, object]] = {
    # The variants of this run also tell what weights alone, and weights from the proposal, would have given.
    "activations": ONE_SHOT | {"align-at": "both", "site-matching": "activations"},
    "joint": ONE_SHOT | {"align-at": "both", "site-matching": "joint"},
    # For the barrier that weights alone leave.
    "weights": {"rounds": 1, "align-at": "server", "probe-points": 7, "guard": False},
    # Beside what the sites have: a seed that costs minutes, where `joint` measures many more networks.
    "ridge": PLAIN | {"baselines": True},
    # One layer after another, without and with the head that pooled data would give; and what that is worth by itself.
    "sequential": SEQUENTIAL,
    "sequential-ridge": SEQUENTIAL | {"head": "ridge"},
    # Its record tells of the ridge head too.
    "sequential-logistic": SEQUENTIAL | {"head": "logistic"},
    # From what it merged, the statistics and the last layer anew, by all samples of the sites.
    "head-all": PLAIN
    | {
        "start": "shared",
        "initial": "sequential-logistic",
        "align-at": "none",
        "head": "logistic",
        "statistics-samples": 0,
    },
    # The network of one site with both by everybody's samples: what of a merge is its last layer's.
    "site-head": PLAIN | {"start": "shared", "initial": BEST, "align-at": "none", "head": "logistic"},
    "sequential-none": SEQUENTIAL | {"align-at": "none", "head": "ridge"},
    # Between the sites' networks and what came of fitting the layers.
    "sequential-search": SEQUENTIAL | {"head": "ridge", "mix": "search"},
    # That, or the network of the site that is best with its statistics and last layer by everybody's samples.
    "sequential-best": SEQUENTIAL | {"head": "logistic", "mix": "best"},
    # Of a ResNet with BatchNorm it corrects the last layer alone, which a solved head would then replace.
    "repair": PLAIN | {"head": "mean", "repair": True},
    "passes": PLAIN | {"recalibrate-passes": 3},
    "search": {"rounds": 1, "align-at": "site", "mix": "search", "head": "ridge", "probe-points": 0},
}
ONWARDS: dict[str, dict[str, object]] = {
    "rounds": ROUNDS,
    "rounds-none": ROUNDS | {"align-at": "none"},
    # The same number of rounds from the network of the best site as it is, and from nothing.
    "rounds-site": ROUNDS | {"start": "shared", "initial": BEST},
    "rounds-scratch": ROUNDS | {"start": "shared"},
    # And from the best merge: layers in sequence and the logistic head once, then means.
    "rounds-merge": ROUNDS | {"start": "shared", "initial": "sequential-logistic"},
    # With a tenth of the step, which loses less of what the start knew. `rounds-head-slow` starts where `mix = "best"`
    # may: with a site's network.
    "rounds-site-slow": ROUNDS | SLOW | {"start": "shared", "initial": BEST},
    "rounds-head-slow": ROUNDS | SLOW | {"start": "shared", "initial": "site-head"},
    "rounds-merge-slow": ROUNDS | SLOW | {"start": "shared", "initial": "sequential-logistic"},
    # The last, but sites do not learn how frequent classes are at home: where they lack some.
    "rounds-merge-adjusted": ROUNDS
    | SLOW
    | {"start": "shared", "initial": "sequential-logistic", "logit-adjustment": 1.0},
    # The best network taken and then rounds of it, in one run.
    "rounds-best-slow": ROUNDS
    | SLOW
    | {"merge": "sequential", "head": "logistic", "mix": "best", "later-merge": "mean", "align-at": "both"},
    # The head that pooled data would give, after every round; and the ensemble as a teacher of each site.
    "rounds-ridge": ROUNDS | {"head": "ridge"},
    "rounds-sequential": ROUNDS | {"merge": "sequential", "head": "ridge"},
    "rounds-logistic": ROUNDS | {"merge": "sequential", "head": "logistic"},
    # Sites that do not learn how frequent classes are at home, from round 2 on: trainings before it are everybody's.
    "rounds-adjusted": ROUNDS | {"logit-adjustment": 1.0},
    "rounds-adjusted-distilled": ROUNDS | {"logit-adjustment": 1.0, "distillation": 1.0},
    "rounds-distilled": ROUNDS | {"distillation": 1.0},
}
# What needs no network of anybody's: ordinary FedAvg from one random start, an epoch a round. On CIFAR-10 each site
# trains for as many epochs as before a merge and in four rounds after it.
FEDAVG: dict[str, dict[str, object]] = {
    "fedavg": ROUNDS | {"rounds": 15, "start": "shared", "align-at": "none", "later-learning-rate": 0.1},
}
METHODS = ONCE | ONWARDS | FEDAVG
# Methods whose runs tell what the sites have.
TELL_OF_SITES = ("joint", "activations", "ridge")


@dataclass(frozen=True)
class Played:
    """What a run left."""

    task: Task
    method: str
    rounds: list[RoundRecord]

    @property
    def first(self) -> RoundRecord:
        """The round of the merge."""
        return self.rounds[0]


def kept(task: Task, method: str) -> Played | None:
    """What a finished run left; None where there is none, or a site was missing in it: that measures another merge."""
    store = _store(task, method)
    rounds = read_rounds(store)
    whole = len(rounds) == METHODS[method]["rounds"] and not any(each.refused for each in rounds)
    return Played(task, method, rounds) if whole and _is_same(store, task, method) else None


def _is_same(store: RunStore, task: Task, method: str) -> bool:
    """Whether the run that lies there had the settings that it would have today; unknown where it left none."""
    told = store.read_json(SETTINGS)
    if told is None:
        return True
    there, today = (parse_settings(each).model_dump(by_alias=True) for each in (told, run_config(task, method)))
    return _without_place(there) == _without_place(today)


def _without_place(told: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in told.items() if key not in PLACE}


def all_kept(wanted: Iterable[Task]) -> list[Played]:
    """What finished runs of these tasks left, in their order."""
    return [played for task in wanted for method in METHODS if (played := kept(task, method)) is not None]


def record(task: Task, folder: Path) -> None:
    """Copies what finished runs left into ``folder``, laid out as the cache: a few kilobytes, without networks.

    With the settings of the runs that told them, but for their place: a default that changed since is noticed.
    """
    for store in (_store(task, each.method) for each in all_kept([task])):
        target = folder / store.directory.relative_to(cache_folder())
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(store.rounds_path, target)
        if (told := store.read_json(SETTINGS)) is not None:
            write_text(target / SETTINGS, json.dumps(_without_place(told), indent=1))
    if (path := pooled_path(task)).exists():
        shutil.copy(path, folder)


def run_config(task: Task, method: str) -> dict[str, object]:
    """The config of a run, but for its place; sites come with the networks that they trained."""
    return {**task.config, **FEWER, **METHODS[method], "epochs": 0}


def play(link: SuperLink, task: Task, method: str) -> Played:
    """The record of ``task`` merged by ``method``; played on ``link`` unless it lies there. Raises when a run fails."""
    store = _store(task, method)
    if kept(task, method) is None:
        shutil.rmtree(store.directory, ignore_errors=True)
        _lay_out(task, store.directory)
        place = {"run": store.directory.name, "runs-dir": str(store.directory.parent.resolve())}
        config = run_config(task, method) | place
        if "initial" in config:
            config["initial"] = str(_initial(link, task, str(config["initial"]), store).resolve())
        finish(link, link.submit(config, task.n_sites), store)
    if (played := kept(task, method)) is None:
        raise RuntimeError(f"{store.directory.name}: a reply was refused, see rounds.jsonl there; play it again")
    return played


def _initial(link: SuperLink, task: Task, meant: str, store: RunStore) -> Path:
    """The network from which a run starts."""
    if meant == BEST:
        return store.directory / "sites" / best_site(link, task) / CHECKPOINT
    play(link, task, meant)
    return _store(task, meant).checkpoint_path(1)


def best_site(link: SuperLink, task: Task) -> str:
    """The site whose network is best alone, as it is."""
    told = [played for method in TELL_OF_SITES if (played := kept(task, method)) is not None]
    first = (told[0] if told else play(link, task, "ridge")).first
    return max(first.weights, key=lambda site: first.baselines[site].accuracy)


def _store(task: Task, method: str) -> RunStore:
    return RunStore(cache_folder() / "runs" / f"{task.name}-{method}")


def _lay_out(task: Task, directory: Path) -> None:
    """Gives each site the network that it trained."""
    for partition in range(task.n_sites):
        training = Training(task, partition)
        make(training)
        folder = directory / "sites" / training.site.name
        folder.mkdir(parents=True)
        shutil.copy(training.path, folder / CHECKPOINT)


def finish(link: SuperLink, run_id: str, store: RunStore) -> None:
    """Waits for the run's end, by the store: each question to Flower starts a process that takes the run's cores."""
    said = link.wait(run_id, ASKS_SECONDS, over=lambda: store.told().get("phase") in ENDS)
    if said != "finished:completed":
        raise RuntimeError(f"{store.directory.name}: {said}\n{link.run_log(run_id)[-4000:]}")

"""``fedrebasin demo``: a real Flower run of a few sites on this machine, from start to report."""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.beforehand import check_data, check_files, from_here
from cli.errors import OptionError
from cli.flower import FlowerError, SuperLink
from cli.interrupts import Interrupted, tell_interrupted, terminable
from cli.output import Format, Output, people, print_json, print_table, warn
from cli.pooled import train_pooled
from cli.settings import checked_settings, read_run_config
from cli.steps import following, steps
from cli.superlink import local_superlink, short_folder
from cli.toml import settings_of
from client.site import simulated_name
from client.sources import describe_samples, read_samples
from server.live import STARTING
from server.records import Score
from server.report import write_report
from server.resume import check_goes_on
from server.store import RunStore
from server.summary import Summary, less_loss, read_rounds, summarise
from strategies.errors import OperatorError
from strategies.references import the_site
from strategies.settings import Settings, parse_settings

# How often Flower is asked whether a run goes on that does not say it itself.
ASKS_SECONDS = 15.0
# A line that a simulated site wrote, without what Ray puts before it.
SITE_LINE = re.compile(r"\(ClientAppActor pid=\d+\)\S* (.+)")
Head = Literal["mean", "counts", "ridge", "logistic"]
Split = Literal["biased", "disjoint", "iid", "dirichlet"]


@dataclass(frozen=True)
class Demo:
    """One demo: the settings of its run, how many sites, and where its SuperLink listens (0: any free port)."""

    settings: Settings
    n_sites: int
    port: int
    with_pooled: bool

    @property
    def store(self) -> RunStore:
        """Where the run leaves its results."""
        return RunStore(Path(self.settings.runs_dir) / self.settings.run)


ENDS = (
    "(the line is highest at an end: this is half the difference between the two networks' losses, and no alignment "
    "lowers it)"
)
# What a run config says itself.
REPLACED = ("seed", "width", "split", "head", "rounds", "data")


def demo(
    context: typer.Context,
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the split, every site's start and the order of samples.")
    ] = 0,
    sites: Annotated[int, typer.Option(min=2, help="How many simulated sites.")] = 2,
    width: Annotated[int, typer.Option(min=1, help="Channels of the ResNet's first stage.")] = 32,
    split: Annotated[Split, typer.Option(help="How the data is divided up.")] = "biased",
    head: Annotated[Head, typer.Option(help="The merged network's last layer.")] = "ridge",
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds in all: the first merges independent starts, the others go on from it.")
    ] = 3,
    data: Annotated[
        str, typer.Option(help="Samples: digits, a path that datasets reads, or module:function.")
    ] = "digits",
    run_config: Annotated[
        Path | None, typer.Option(help="TOML: a run's settings, in place of seed, width, split, head, rounds and data.")
    ] = None,
    with_pooled: Annotated[bool, typer.Option("--with-pooled", help="Also train on all sites' data together.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; else the run config's.")] = Path("runs"),
    name: Annotated[
        str,
        typer.Option(help="The run's name; else the config's, else the time. An interrupted run goes on."),
    ] = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The SuperLink's port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Run a federation of simulated sites, merge their networks, and show what the merge is worth."""
    read = {} if run_config is None else read_run_config(run_config)
    place: dict[str, object] = {
        "run": name or read.get("run") or datetime.now(UTC).strftime("demo-%Y%m%d-%H%M%S"),
        "runs-dir": str(Path(runs if _is_given(context, "runs") else str(read.get("runs-dir", runs))).resolve()),
    }
    samples = read_samples(data) if run_config is None else None
    if samples is not None:
        shape, classes = describe_samples(samples)
        config = place | {
            "seed": seed,
            "rounds": rounds,
            "min-sites": sites,
            "width": width,
            "depth": 8,
            "split": split,
            "head": head,
            "data": data,
            "shape": shape,
            "classes": classes,
            "baselines": True,
        }
    else:
        _check_alone(context)
        config = {"min-sites": sites} | read | place
    given = [key for key, option in (("run", "name"), ("runs-dir", "runs")) if _is_given(context, option)]
    with settings_of(run_config, replaced=given):
        config |= from_here(checked_settings(config, simulated=True))
    settings = parse_settings(config)
    _check_playable(settings, sites)
    plan = Demo(settings, sites, port, with_pooled)
    n_played = _check_store(plan)
    check_files(settings)
    check_data(settings, sites, samples)
    # The sites read their own, and a run takes long.
    del samples
    _take_up(plan.store, n_played)
    summary, report = play_demo(plan, config)
    if output is Format.JSON:
        print_json(summary.model_dump(exclude={"settings"}))
    else:
        show(summary, report)


def _check_alone(context: typer.Context) -> None:
    """Raises `OptionError` for options that say what the run config says."""
    if given := [name for name in REPLACED if _is_given(context, name)]:
        options = ", ".join(f"--{name}" for name in given)
        raise OptionError(f"{options}: not together with --run-config; write it into that file")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_playable(settings: Settings, sites: int) -> None:
    """Raises `OptionError` for a run that simulated sites can only wait or fail in, `OperatorError` for a reference
    that is none of them.
    """
    if settings.min_sites > sites:
        raise OptionError(f"min-sites = {settings.min_sites}, and --sites is {sites}: the run would wait for others")
    if settings.start == "checkpoint":
        raise OptionError("start = 'checkpoint': simulated sites bring none; set start to 'seed' or 'shared'")
    if settings.reference_is_site:
        the_site(settings.reference, [simulated_name(number) for number in range(sites)])


def _check_store(plan: Demo) -> int:
    """The number of rounds that a run that goes on has behind it, which is told.

    Raises `StoreError` where it cannot go on, `OptionError` for other sites.
    """
    store = plan.store
    store.check_writable()
    rounds = check_goes_on(store, plan.settings)
    if rounds:
        # Their number decides what data each of them has.
        before, now = sorted(rounds[0].traffic), sorted(simulated_name(number) for number in range(plan.n_sites))
        if before != now:
            raise OptionError(f"run {plan.settings.run!r} has {len(before)} sites, and --sites is {plan.n_sites}")
        warn(f"run {plan.settings.run!r} goes on after round {len(rounds)}")
    return len(rounds)


def _take_up(store: RunStore, n_played: int) -> None:
    """Makes the run's folder. Raises `StoreError` where it cannot be, which permissions alone do not tell."""
    store.make()
    if store.told():
        # What ended it stands there still.
        store.status(n_played, STARTING)


def play_demo(plan: Demo, config: Mapping[str, object]) -> tuple[Summary, Path]:
    """Plays the run and returns its summary and report. Raises `FlowerError` when it does not complete."""
    start = time.monotonic()
    try:
        with terminable():
            _play(plan, config)
            pooled = _pooled(plan) if plan.with_pooled else None
    except KeyboardInterrupt:
        tell_interrupted(plan.store)
        goes_on = (
            f"; the same command with --name {plan.settings.run} goes on" if plan.store.rounds_path.exists() else ""
        )
        raise Interrupted(f"interrupted; nothing is left running{goes_on}") from None
    except OperatorError as error:
        plan.store.tell_end(str(error), error.exit_code)
        raise
    seconds = time.monotonic() - start
    return summarise(plan.store, seconds, pooled), write_report(plan.store, seconds, pooled)


def show(summary: Summary, report: Path) -> None:
    """The table, the barrier, and where the report lies."""
    names = {name: f"{name}  ← the merge" if name == summary.merge else name for name in summary.accuracy}
    rows = [(text, f"{summary.accuracy[name]:.3f}", f"{summary.loss[name]:.3f}") for name, text in names.items()]
    print_table(f"{summary.run}: on the union of held-out data", ("network", "accuracy", "loss, nats"), rows)
    if any(name.endswith(".recalibrated") for name in summary.accuracy):
        stale = "(means that are not recalibrated have others' BatchNorm statistics; docs/demo.md tells the rows)"
        people.print(stale, style="dim", soft_wrap=True)
    if summary.barrier is not None:
        naive = "not known" if summary.barrier.naive is None else f"{summary.barrier.naive:.3f}"
        people.print(f"barrier: naive {naive}, aligned {summary.barrier.aligned:.3f}")
        people.print(f"({summary.barrier.definition})", style="dim")
        if summary.ends:
            people.print(ENDS, style="dim", soft_wrap=True)
    if summary.taken:
        people.print(f"mix took {summary.taken}", soft_wrap=True)
    store = RunStore(report.parent)
    if better := less_loss(store, read_rounds(store)):
        people.print(better, soft_wrap=True)
    people.print(f"{summary.seconds:.0f} s; report: {report}", soft_wrap=True)


def _play(plan: Demo, config: Mapping[str, object]) -> None:
    """Plays the run on a SuperLink of its own, whose log is kept beside the results."""
    home = short_folder()
    try:
        with steps("starting Flower") as shown, local_superlink(home, plan.port) as link:
            run_id = link.submit(config, plan.n_sites)
            try:
                _wait(link, run_id, plan.store, following(plan.store, plan.settings, shown))
            finally:
                _keep_log(link, run_id, plan.store)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _keep_log(link: SuperLink, run_id: str, store: RunStore) -> None:
    """Keeps what the run printed. A log that cannot be kept must not hide why the run ended."""
    try:
        store.make()
        store.write_text("flower.log", link.run_log(run_id))
    except (OSError, OperatorError) as error:
        warn(f"the run's log is not kept: {error}")


def _pooled(plan: Demo) -> Score:
    with steps("training on the pooled data"):
        return train_pooled(plan.settings, plan.n_sites)


def _wait(link: SuperLink, run_id: str, store: RunStore, look: Callable[[], bool]) -> None:
    """Returns when the run has completed; ``look`` shows until then what it does, and says whether it has ended."""
    said = link.wait(run_id, ASKS_SECONDS, look)
    # Of the last round too.
    look()
    if said != "finished:completed":
        error = FlowerError(f"the run ended as {said}: {_reason(link, run_id, store)}")
        error.exit_code = int(str(store.told().get("exit-code") or error.exit_code))
        raise error


def _reason(link: SuperLink, run_id: str, store: RunStore) -> str:
    told = store.told().get("reason")
    log = link.run_log(run_id).splitlines()
    # All sites are simulated here, so that what real ones would keep in their own logs stands in this one.
    said = dict.fromkeys(found[1].strip() for line in log if (found := SITE_LINE.search(line)))
    last = "\n".join(list(said)[-3:]) if told else "\n".join(log[-20:])
    return f"{told or 'no reason given'}\n{last}\nThe whole log: {store.directory / 'flower.log'}"

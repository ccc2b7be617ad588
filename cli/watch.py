"""``fedrebasin watch``: a run in the terminal, as it goes."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.flower import FlowerError
from cli.output import Format, Output, as_clock, people, print_json
from server.errors import StoreError
from server.follow import Folder
from server.snapshot import WAITING, SiteNow, Snapshot, snapshot
from strategies.errors import OperatorError
from strategies.files import out_of_sight

LOOKS_PER_SECOND = 4


class FailedRun(OperatorError):  # noqa: N818 - it is the run's failure, told on
    """The run that was watched has failed."""


def watch(
    run: Annotated[Path, typer.Argument(show_default=False, help="The run's folder, or its name under --runs.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    output: Output = Format.TABLE,
) -> None:
    """Show what a run is doing, until it ends: phase, deadline, sites, barrier. As JSON, show it once and end."""
    folder = Folder.at(find(run, runs))
    if output is Format.JSON:
        print_json(look(folder).model_dump())
        return
    with Live(console=people, auto_refresh=False) as live:
        while (now := look(folder)).state == "active":
            live.update(shown(now), refresh=True)
            time.sleep(1 / LOOKS_PER_SECOND)
        live.update(shown(now), refresh=True)
    if not people.is_terminal:
        people.print()
    if now.state == "failed":
        error = FailedRun(f"run {now.run!r} failed: {now.reason}")
        error.exit_code = now.exit_code or OperatorError.exit_code
        raise error
    if now.state == "dead":
        raise FlowerError(
            f"run {now.run!r}: no process plays it any more; it was in round {now.round}, phase {now.phase!r}, and did "
            "not say why it ended: look at the log of its ServerApp. Start it again under the same name: it resumes "
            "after its last finished round."
        )


def find(run: Path, runs: Path) -> Path:
    """The run's folder. Raises `StoreError` that names the runs that are there."""
    for path in (run, runs / run):
        if why := out_of_sight(path / "settings.json"):
            raise StoreError(f"{path}: {why}")
        if (path / "settings.json").is_file():
            return path
    if not runs.is_dir():
        raise StoreError(f"no run {str(run)!r} here, and {runs} is no folder; name the folder of the runs with --runs")
    there = sorted(path.parent.name for path in runs.glob("*/settings.json"))
    raise StoreError(f"no run {str(run)!r}, here or under {runs}; there are: {', '.join(there) or 'none'}")


def look(folder: Folder) -> Snapshot:
    """The run now."""
    run = folder.run()
    if run is None:
        raise StoreError(f"{folder.told.path}: not the settings of a run; was it written by another version?")
    if folder.status.problem:
        raise StoreError(
            f"{folder.status.path}: not the status of a run: {folder.status.problem}. A run that goes on writes it "
            "anew with its next step: watch it again then. One that nobody plays: start it again under the same name."
        )
    run.catch_up()
    return snapshot(run, time.time())


def shown(now: Snapshot) -> Group:
    """What stands in the terminal: no line wraps at 80 columns while names are short."""
    head = Text.assemble((now.run, "bold"), f"  round {now.round} of {now.rounds}  ", (now.phase, "bold cyan"))
    head.append(f"  {as_clock(now.seconds_in_phase)}")
    if now.seconds_left is not None:
        replied = f"{now.replied} of {now.asked} replied, " if now.asked else ""
        head.append(f"  {replied}deadline in {as_clock(now.seconds_left)}", "yellow")
    if now.state == "dead":
        head.append("  played by no process", "red")
    return Group(head, _sites(now), *_merge(now))


def _sites(now: Snapshot) -> Table:
    table = Table("site", "state")
    for column in ("barrier naive", "aligned", "at home", "share"):
        table.add_column(column, justify="right")
    for site in now.sites:
        table.add_row(site.site, _state(site), *map(_number, _numbers(site)))
    return table


def _numbers(site: SiteNow) -> tuple[float | None, ...]:
    return site.barrier_naive, site.barrier_aligned, site.accuracy_at_home, site.share


def _state(site: SiteNow) -> Text:
    bad = site.state == "late" or site.state.startswith("refused")
    return Text(site.state, "red" if bad else "yellow" if site.state == WAITING else "green")


def _merge(now: Snapshot) -> list[Text]:
    if now.merged_round is None:
        return [Text("no merge yet", "dim")]
    lines = [f"merge of round {now.merged_round}"]
    if now.barrier is not None:
        lines.append(f"barrier naive {_number(now.barrier.naive)}, aligned {_number(now.barrier.aligned)} nats")
    if now.undone:
        lines.append(f"guard: alignment undone of {', '.join(now.undone)}")
    if "merged" in now.accuracy:
        alone = f"{now.accuracy['best_site']:.3f}" if "best_site" in now.accuracy else "unknown"
        lines.append(f"accuracy merged {now.accuracy['merged']:.3f}, best site alone {alone}")
    if "best_before_merge" in now.accuracy:
        best, mean = (now.accuracy[f"{name}_before_merge"] for name in ("best", "mean"))
        lines.append(f"sites before this merge: best {best:.3f}, mean {mean:.3f}")
    return [Text(line, "" if number else "dim") for number, line in enumerate(lines)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

"""``fedrebasin server run``: submits a run to the federation's SuperLink and waits for its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.files import read_settings
from cli.enrolment.layout import ServerFolder
from cli.enrolment.settings import Federation
from cli.enrolment.superlink import reach_superlink
from cli.errors import OptionError
from cli.flower import FlowerError, SuperLink
from cli.interrupts import Interrupted, tell_interrupted, terminable, uninterrupted
from cli.output import Format, Output, people, print_json, progress, warn
from cli.settings import read_run_config, tell_idle
from cli.toml import settings_of
from server.resume import FREE, FinishedError, check_goes_on
from server.store import Record, RunStore
from server.summary import less_loss, readable_rounds
from strategies.settings import Settings, as_written, parse_settings

COMPLETED = "finished:completed"


def run(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML: the run's settings, as `fedrebasin settings` shows them; else federation.toml's."),
    ] = None,
    name: Annotated[str, typer.Option(help="The run's name; by default the config's.")] = "",
    sites: Annotated[
        int,
        typer.Option(min=0, help="Sites to wait for and to need in each round; no fewer than min-sites, 0: that."),
    ] = 0,
    runs: Annotated[
        Path, typer.Option(resolve_path=True, help="Folder of the runs, where also the ServerApp finds it.")
    ] = Path("runs"),
    folder: Annotated[Path, typer.Option(help="The server's folder, or `operator` in it.")] = Path("federation"),
    output: Output = Format.TABLE,
) -> None:
    """Start a run and wait until it has ended; Ctrl-C or SIGTERM stops it.

    It has the settings that `fedrebasin settings CONFIG` shows, and no others; without CONFIG, those in
    federation.toml. If a run of that name was interrupted, or finished fewer rounds, it goes on; one that has finished
    is left as it is.
    """
    server = ServerFolder(folder).check()
    federation = read_settings(server.settings, Federation)
    wanted = (federation.run if config is None else read_run_config(config)) | {"runs-dir": str(runs)}
    options = {key: value for key, value in (("run", name), ("min-sites", sites)) if value}
    with settings_of(config, replaced=options):
        _check_sites(sites, wanted)
        settings = parse_settings(wanted | options)
    tell_idle(settings)
    tell_otherwise(settings, federation)
    store = RunStore(runs / settings.run)
    before = finished_before(store, settings)
    if not before:
        with terminable(), reach_superlink(server, federation) as link:
            play(link, settings, store)
    if output is Format.JSON:
        told = {"run": settings.run, "status": COMPLETED, "finished-before": before, "store": str(store.directory)}
        print_json(told)
    else:
        how = "was finished before, and nothing was started; raise rounds to go on" if before else "finished"
        people.print(f"{settings.run}: {how}; {worth(store)}see {store.directory}", soft_wrap=True)


def _check_sites(sites: int, wanted: Mapping[str, object]) -> None:
    """Raises `OptionError` for fewer sites than the settings need: each would weigh more than its keepers were told.

    ``wanted`` need not go together without them, as secure aggregation does not with the default of ``min-sites``.
    """
    least = parse_settings({key: value for key, value in wanted.items() if key == "min-sites"}).min_sites
    if 0 < sites < least:
        raise OptionError(
            f"--sites is {sites}, and the run's settings have min-sites = {least}, the fewest that may be merged; "
            "leave --sites out, or lower min-sites there"
        )


def tell_otherwise(settings: Settings, federation: Federation) -> None:
    """Says what of a run is not as the sites' kits tell it, by which they have tried themselves."""
    now, kits = (each.model_dump(by_alias=True) for each in (settings, parse_settings(federation.run)))
    differ = [key for key in now if key not in FREE | {"run"} and now[key] != kits[key]]
    if differ:
        told = ", ".join(f"{key} = {as_written(now[key])} (there {as_written(kits[key])})" for key in differ)
        warn(
            f"not as in federation.toml, nor in the sites' kits: {told}. If that is to stay, "
            "`fedrebasin server renew NAME --run-config FILE` tells each site"
        )


def worth(store: RunStore) -> str:
    """What the last merge of a run is worth, as the beginning of a sentence; empty where nobody measured one."""
    rounds = readable_rounds(store)[0]
    scores = [(record.round, record.merged) for record in rounds if record.merged is not None]
    if not scores:
        return ""
    number, score = scores[-1]
    told = f"accuracy {score.accuracy:.3f}, loss {score.loss:.3f} nats, on {score.count} held-out samples of all sites"
    better = less_loss(store, rounds)
    return f"round {number} has {told}; {better + '; ' if better else ''}"


def finished_before(store: RunStore, settings: Settings) -> bool:
    """Whether the run has finished all rounds that it is asked for, and its report is written.

    Raises `StoreError` where it could not go on, such as with other settings.
    """
    try:
        check_goes_on(store, settings)
    except FinishedError:
        return True
    return False


def play(link: SuperLink, settings: Settings, store: RunStore) -> None:
    """Submits the run and returns when it has completed; an interrupt stops it.

    Raises `Interrupted`, or `FlowerError` with the run's own exit code when it ends early.
    """
    submitted = None
    before = store.told()
    try:
        with uninterrupted():
            submitted = Submitted(link, link.submit(settings.model_dump(by_alias=True), None), store, before)
        tell_started(settings, store)
        status = link.wait(submitted.run_id)
    except KeyboardInterrupt:
        raise submitted.stop() if submitted is not None else Interrupted("interrupted; no run was started") from None
    if status != COMPLETED:
        raise submitted.early_end(status)


def tell_started(settings: Settings, store: RunStore) -> None:
    """Says on standard error what the run waits for and what shows it, since nothing else does until its end."""
    sites = "1 site" if settings.min_sites == 1 else f"{settings.min_sites} sites"
    waits = f"waits for {sites}, at most {settings.join_deadline_seconds:.0f} s"
    shows = f"`fedrebasin watch {settings.run} --runs {store.directory.parent}`, where the runs lie, shows what it does"
    progress.print(f"{settings.run}: started; {waits}. {shows}", highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Submitted:
    """A run that the SuperLink has.

    before  what its store told when it was submitted: not of this time
    """

    link: SuperLink
    run_id: str
    store: RunStore
    before: Record

    @property
    def name(self) -> str:
        """The run's name."""
        return self.store.directory.name

    def stop(self) -> Interrupted:
        """Ends the run and says so in its store. Raises `FlowerError` where it goes on."""
        try:
            self.link.stop(self.run_id)
        except FlowerError as error:
            raise FlowerError(
                f"interrupted, and run {self.name!r} goes on: {error}. To stop it and all others, restart the server's "
                "SuperExec, which plays them: `docker compose restart superexec`"
            ) from error
        tell_interrupted(self.store)
        return Interrupted(
            f"interrupted; run {self.name!r} is stopped. The same command goes on after its last finished round"
        )

    def early_end(self, status: str) -> FlowerError:
        """The error of a run that ended early, which its store tells too where the ServerApp died and could not."""
        now = self.store.told()
        told = {} if now == self.before else now
        reason = told.get("reason") or "\n".join(self.link.run_log(self.run_id).splitlines()[-20:])
        error = FlowerError(f"the run ended as {status}: {reason}")
        error.exit_code = int(str(told.get("exit-code") or error.exit_code))
        if told:
            # Else the status is that of another start: the ServerApp left it as it was.
            self.store.tell_end(str(error), error.exit_code)
        return error

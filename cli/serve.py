"""``fedrebasin server run``: submits a run to the federation's SuperLink and waits for its end."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from cli.enrolment.files import read_settings
from cli.enrolment.layout import ServerFolder
from cli.enrolment.settings import Federation
from cli.enrolment.superlink import reach_superlink
from cli.options import Output
from cli.output import Format, people, print_json
from cli.settings import read_run_config, tell_idle
from cli.superlink import FlowerError, SuperLink
from server.live import FINISHED
from server.store import RunStore
from strategies.settings import parse_settings


def run(
    config: Annotated[Path | None, typer.Argument(help="TOML: what differs from federation.toml.")] = None,
    name: Annotated[str, typer.Option(help="The run's name; by default as the config says.")] = "",
    sites: Annotated[int, typer.Option(min=0, help="How many sites to wait for; by default as the config says.")] = 0,
    runs: Annotated[Path, typer.Option(help="Where the ServerApp keeps runs, as it sees that folder.")] = Path("/runs"),
    folder: Annotated[Path, typer.Option(help="The server's folder, or `operator` in it.")] = Path("federation"),
    output: Output = Format.TABLE,
) -> None:
    """Start a run and wait until it has ended. A run of that name that has finished is left as it is."""
    server = ServerFolder(folder).check()
    federation = read_settings(server.settings, Federation)
    wanted = federation.run | (read_run_config(config) if config is not None else {}) | {"runs-dir": str(runs)}
    settings = parse_settings(wanted | ({"run": name} if name else {}) | ({"min-sites": sites} if sites else {}))
    tell_idle(settings)
    store = RunStore(runs / settings.run)
    before = store.told()
    status = "finished:completed"
    if before.get("phase") != FINISHED:
        with reach_superlink(server, federation) as link:
            run_id = link.submit(settings.model_dump(by_alias=True), None)
            status = link.wait(run_id)
            if status != "finished:completed":
                raise early_end(link, run_id, store, status, before)
    if output is Format.JSON:
        print_json({"run": settings.run, "status": status, "store": str(store.directory)})
    else:
        people.print(f"{settings.run}: {status}; see {store.directory}", soft_wrap=True)


def early_end(
    link: SuperLink, run_id: str, store: RunStore, status: str, before: Mapping[str, object] = MappingProxyType({})
) -> FlowerError:
    """The error of a run that ended early, for what the ServerApp said, else as its log ends.

    The store knows it too, where the ServerApp died and could not say it. Where its status is as ``before``, the
    ServerApp left it: it is that of another start, or of another run.
    """
    said = told_since(store, before)
    reason = said.get("reason") or "\n".join(link.run_log(run_id).splitlines()[-20:])
    error = FlowerError(f"the run ended as {status}: {reason}")
    if said:
        store.tell_end(str(error), error.exit_code)
    return error


def told_since(store: RunStore, before: Mapping[str, object]) -> Mapping[str, object]:
    """The run's status, if it is another than ``before``; else nothing."""
    told = store.told()
    return told if told != before else {}

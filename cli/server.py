"""``fedrebasin server``: what the operator of a federation's server does."""

from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.approval import Server
from cli.enrolment.errors import EnrolmentError
from cli.enrolment.files import parsed, writing
from cli.enrolment.layout import ServerFolder
from cli.enrolment.register import Entry
from cli.enrolment.requests import RESERVED, compare, read_request
from cli.enrolment.server import days_left, make_server, sign_servers
from cli.enrolment.settings import (
    LEAST_SAMPLES,
    SERVER_DAYS,
    SITE_DAYS,
    Federation,
    RunConfig,
    default_image,
    image_of_now,
)
from cli.enrolment.superlink import nodes, reach_superlink
from cli.enrolment.units import ServerPlaces, write_server_units
from cli.enrolment.users import runner
from cli.errors import OptionError
from cli.flower import FlowerError, executable
from cli.late import Late, group_with
from cli.output import Format, Output, people, print_json, print_table, warn
from cli.toml import settings_of

app = typer.Typer(
    cls=group_with(Late("run", "cli.serve"), Late("simulate"), Late("rehearse")),
    help="A federation's server: make it, let sites in and out, start runs.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Option(help="The server's folder: keys and the list of sites.")]
Kit = Annotated[Path | None, typer.Option(help="Where to write the kit; by default NAME.kit in the current folder.")]
Image = Annotated[str, typer.Option(envvar="FEDREBASIN_IMAGE", help="The container image that sites run, from now on.")]
HERE = Path("federation")
SYSTEMD = Path("/etc/systemd/system")
OWNER = "run this as the folder's owner; in containers, as the service `enrolment`, which mounts all of it"


@app.command()
def init(
    proxy: Annotated[str, typer.Option(help="Address that sites dial, HOST:PORT.")],
    superlink: Annotated[str, typer.Option(help="Address of the SuperLink on the inner network.")] = "superlink:8000",
    listen: Annotated[
        str, typer.Option(help="Where the proxy listens; by default everywhere, at --proxy's port.")
    ] = "",
    image: Image = "",
    run_config: Annotated[Path | None, typer.Option(help="TOML: the settings of runs.")] = None,
    name: Annotated[str, typer.Option(help="The federation's name.")] = "fedrebasin",
    least_samples: Annotated[int, typer.Option(help="Fewest samples that a site must have.")] = LEAST_SAMPLES,
    certificate_days: Annotated[float, typer.Option(help="Days that a site's certificate is good.")] = SITE_DAYS,
    server_certificate_days: Annotated[float, typer.Option(help="The same for proxy and SuperLink.")] = SERVER_DAYS,
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Make a federation: its certificate authority, the server's keys, an empty list of sites."""
    said = {
        "name": name,
        "proxy": proxy,
        "superlink": superlink,
        **({"listen": listen} if listen else {}),
        "image": image or default_image(),
        "run": _run_config(run_config),
        "least-samples": least_samples,
        "certificate-days": certificate_days,
        "server-certificate-days": server_certificate_days,
    }
    federation = parsed(Federation, said)
    with writing(folder, "name another place with --folder", EnrolmentError):
        make_server(ServerFolder(folder), federation)
    if output is Format.JSON:
        print_json({"folder": str(folder), "proxy": proxy, "superlink": superlink})
    else:
        people.print(
            f"{folder}: a federation without sites. Keep ca.key and sites.json safe, and back them up.\n"
            "Next: start SuperLink, proxy and SuperExec, as docs/server-guide.md says, and let in each site that asks: "
            f"fedrebasin server approve REQUEST --fingerprint SHA256:… --folder {folder}",
            soft_wrap=True,
            markup=False,
        )


@app.command()
def units(
    target: Annotated[Path, typer.Argument(show_default=False, help="Folder such as /etc/systemd/system.")],
    user: Annotated[str, typer.Option(help="User that runs them, not root; by default you.")] = "",
    state: Annotated[Path, typer.Option(help="Folder of what the processes remember; made if need be.")] = Path(
        "state"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of the runs; made if need be.")] = Path("runs"),
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Without containers: write systemd units of SuperLink, proxy, SuperExec and exporter, which nothing starts yet."""
    places = ServerPlaces(ServerFolder(folder), state, runs)
    with writing(
        target, "name folders that are there, and that you may write to; systemd's own takes root", EnrolmentError
    ):
        # A folder that is not there is told before what is wrong with the user.
        target.stat()
        written = write_server_units(places, target, Path(executable("fedrebasin")), runner(user))
    if output is Format.JSON:
        print_json({"written": [str(path) for path in written]})
    else:
        people.print("\n".join(map(str, written)), soft_wrap=True)
        if target.resolve() == SYSTEMD:
            names = " ".join(path.stem for path in written)
            people.print(f"Next: systemctl daemon-reload, then systemctl enable --now {names}", soft_wrap=True)


@app.command()
def approve(
    context: typer.Context,
    request: Annotated[Path, typer.Argument(show_default=False, help="The request that a site sent.")],
    expected: Annotated[
        str,
        typer.Option(
            "--fingerprint", help="Fingerprint that the site's operator told you; without it, compare it afterwards."
        ),
    ] = "",
    kit: Kit = None,
    image: Image = "",
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Let a site in: sign its certificate, register its key at the SuperLink, write its kit.

    If a site that is in already asks with a new key, that key is let in and the old one is revoked.
    """
    server = _opened(context, folder, image)
    asked = read_request(request)
    compare(expected, asked.key, str(request))
    where = kit or Path(f"{asked.name}.kit")
    with writing(folder, OWNER, EnrolmentError), server.keeping_settings():
        entry, told = server.approve(asked, where)
    _tell_kit(entry, where, told, output)
    if not expected and output is not Format.JSON:
        people.print("Compare its key with the site's operator, by telephone, if you have not yet.")


@app.command(name="list")
def list_sites(folder: Folder = HERE, output: Output = Format.TABLE) -> None:
    """Show the sites: who is let in, how many days each certificate is good, who is online now."""
    server = Server.open(folder)
    try:
        with reach_superlink(server.folder, server.federation) as link:
            online = nodes(link)
    except FlowerError as error:
        warn(f"the SuperLink cannot be asked who is there: {error}")
        online = {}
    sites = [_listed(entry, online) for entry in server.register().sites]
    if output is Format.JSON:
        print_json({"sites": sites})
    else:
        columns = ("site", "status", "certificate, days left", "there", "key")
        rows = [(s["name"], s["status"], f"{s['days-left']:.0f}", s["there"], s["key"]) for s in sites]
        print_table(str(folder), columns, [tuple(map(str, row)) for row in rows], texts=("status", "there", "key"))


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The site.")], folder: Folder = HERE, output: Output = Format.TABLE
) -> None:
    """Shut a site out for good: at the proxy, then at the SuperLink. Its key never works again.

    The proxy refuses the site within a second or two, and ends connections that are open within five seconds more.
    """
    with writing(folder, OWNER, EnrolmentError):
        entry = Server.open(folder).revoke(name)
    if output is Format.JSON:
        print_json({"name": name, "status": "revoked", "key": entry.key})
    else:
        people.print(f"{name}: revoked; its key {entry.key} will not be let in again", soft_wrap=True)


@app.command()
def renew(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The site; or `server`, for the proxy's and the SuperLink's own.")],
    kit: Kit = None,
    image: Image = "",
    run_config: Annotated[Path | None, typer.Option(help="TOML: the settings of runs, from now on.")] = None,
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Sign a new certificate for a site's key and write its kit anew, as version, image and federation.toml are now.

    --image and --run-config are written into federation.toml, for every kit to come. The old certificate is good until
    it ends, so that the site can install the new kit while a run goes on.
    """
    if name == RESERVED and kit is not None:
        raise OptionError(f"--kit {kit}: proxy and SuperLink take no kit; leave it out, or name a site")
    server = _opened(context, folder, image, _run_config(run_config) if run_config is not None else None)
    if name == RESERVED:
        with writing(folder, OWNER, EnrolmentError), server.keeping_settings():
            sign_servers(server.folder, server.federation, server.authority)
        if output is Format.JSON:
            print_json({"name": name})
        else:
            people.print("proxy and SuperLink have new keys; the proxy takes its own by itself, restart the SuperLink")
        return
    where = kit or Path(f"{name}.kit")
    with writing(folder, OWNER, EnrolmentError), server.keeping_settings():
        entry, told = server.renew(name, where)
    _tell_kit(entry, where, told, output)


def _opened(context: typer.Context, folder: Path, image: str, run: RunConfig | None = None) -> Server:
    """The server, whose kits name ``image`` and ``run``. An image that nobody typed is told where it is another one."""
    server = Server.open(folder)
    before = image_of_now(server.federation.image)
    source = context.get_parameter_source("image")
    if image not in ("", before) and source is not None and source.name == "ENVIRONMENT":
        warn(f"FEDREBASIN_IMAGE is {image}, which kits name from now on in place of {before}; --image says otherwise")
    return server.telling(image, run)


def _run_config(path: Path | None) -> RunConfig:
    # The network is built, by torch, which other commands need not wait for.
    from cli.settings import checked_settings, read_run_config

    config = read_run_config(path) if path is not None else {}
    with settings_of(path):
        found = checked_settings(config).model_dump(by_alias=True)
    return {key: found[key] for key in config}


def _listed(entry: Entry, online: dict[str, str]) -> dict[str, str | float]:
    return {
        "name": entry.name,
        "status": entry.status,
        "days-left": round(days_left(entry.not_after), 2),
        "not-after": entry.not_after.isoformat(),
        "there": online.get(entry.node_id, "unknown"),
        "node-id": entry.node_id,
        "key": entry.key,
    }


def _tell_kit(entry: Entry, kit: Path, told: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"name": entry.name, "key": entry.key, "kit": str(kit), "fingerprint": told})
        return
    people.print(f"{entry.name}: let in with the key {entry.key}", soft_wrap=True)
    people.print(f"At the site: fedrebasin site install {kit} --fingerprint {told}", soft_wrap=True)

"""``fedrebasin site``: what the operator of a site does."""

from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.errors import EnrolmentError, KitError
from cli.enrolment.files import private_folder, writing
from cli.enrolment.keys import fingerprint, read_private
from cli.enrolment.kits import install_kit, write_environment
from cli.enrolment.layout import SiteFolder
from cli.enrolment.requests import check_name, make_request
from cli.enrolment.units import write_units
from cli.enrolment.users import runner
from cli.flower import executable
from cli.late import Late, group_with
from cli.output import Format, Output, people, print_json
from cli.supervise import run, run_all

app = typer.Typer(
    cls=group_with(Late("check", "cli.preflight.command")),
    help="One site: make its key, join a federation, check and run the site.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Option(help="The site's folder; its keys never leave it.")]
HERE = Path("site")
ELSEWHERE = "name another place with --folder"
OWNER = "run this as the folder's owner"


@app.command()
def request(
    name: Annotated[str, typer.Argument(help="What the site will be called: letters, digits, '.', '_' and '-'.")],
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Make the site's key, and the request to send to the server's operator."""
    site = SiteFolder(folder)
    check_name(name)
    with writing(folder, ELSEWHERE, EnrolmentError):
        if not folder.exists():
            # Another, such as the current one, may be others' too; what is secret lies in folders of its own.
            private_folder(folder)
        made = make_request(site, name)
    key = fingerprint(read_private(site.key).public_key())
    if output is Format.JSON:
        print_json({"name": name, "request": str(made), "fingerprint": key})
        return
    people.print(f"Send {made} to the server's operator.", soft_wrap=True)
    people.print(f"Tell them its fingerprint on another way, such as by telephone: {key}", soft_wrap=True)


@app.command()
def install(
    kit: Annotated[Path, typer.Argument(show_default=False, help="The folder that the server's operator sent.")],
    expected: Annotated[str, typer.Option("--fingerprint", help="Fingerprint that the server's operator told you.")],
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Put a kit beside the site's keys, if it is the one that the server's operator made."""
    with writing(folder, OWNER, KitError):
        membership = install_kit(kit, SiteFolder(folder), expected)
    if output is Format.JSON:
        print_json({"name": membership.site, "federation": membership.federation, "folder": str(folder)})
    else:
        people.print(f"{membership.site} is a member of {membership.federation}.")
        people.print(f"Say in {folder}/site.toml where the data is; then: fedrebasin site check", soft_wrap=True)


@app.command()
def configure(
    systemd: Annotated[
        Path | None, typer.Option(help="Also write systemd units here, such as /etc/systemd/system.")
    ] = None,
    user: Annotated[str, typer.Option(help="User that runs the units, not root; by default you.")] = "",
    folder: Folder = HERE,
    output: Output = Format.TABLE,
) -> None:
    """Write anew what is made from site.toml: .env for containers and, with --systemd, units."""
    site = SiteFolder(folder)
    with writing(folder, OWNER, KitError):
        written = [write_environment(site)]
    if systemd is not None:
        with writing(systemd, "name a folder that is there with --systemd; systemd's own takes root", KitError):
            # A folder that is not there is told before what is wrong with the user.
            systemd.stat()
            written += write_units(site, systemd, Path(executable("fedrebasin")), runner(user))
    if output is Format.JSON:
        print_json({"written": [str(path) for path in written]})
    else:
        people.print("\n".join(map(str, written)), soft_wrap=True)


app.command()(run)
app.command()(run_all)

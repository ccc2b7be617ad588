"""``fedrebasin server simulate``: sites on this machine ask to join, and are let in, step by step as real ones are."""

import tempfile
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from cli.enrolment.approval import Server
from cli.enrolment.files import private_folder
from cli.enrolment.keys import fingerprint
from cli.enrolment.kits import install_kit
from cli.enrolment.layout import SiteFolder
from cli.enrolment.requests import make_request, read_request, write_request
from cli.output import Format, Output, people, print_json
from client.site import first_names, simulated_name

MORE = "more"
SIDECAR_PORT, RUNTIME_PORT = 9443, 9094


def simulate(
    n_sites: Annotated[int, typer.Argument(min=1, show_default=False, help="How many sites there should be.")],
    sites: Annotated[Path, typer.Option(help="Folder of the sites' folders: NAME, from the third on more/NAME.")],
    folder: Annotated[Path, typer.Option(help="The server's folder.")] = Path("federation"),
    output: Output = Format.TABLE,
) -> None:
    """Enrol simulated sites that share the run's data. Those that are members already are not enrolled again."""
    server = Server.open(folder)
    joined: list[str] = []
    for number in range(n_sites):
        name = simulated_name(number)
        site = SiteFolder(sites / name if name in first_names else sites / MORE / name)
        if not site.membership.exists():
            join(server, site, name)
            joined.append(name)
        # How the data is shared depends on how many there are.
        data = str(server.federation.run.get("data", "digits"))
        site.settings.write_text(tomli_w.dumps(settings_of(number, n_sites, data)))
    if output is Format.JSON:
        print_json({"joined": joined, "sites": n_sites})
    else:
        people.print(f"{n_sites} sites, of which {len(joined)} joined now: {', '.join(joined)}")


def join(server: Server, site: SiteFolder, name: str) -> None:
    """Request, approval and installation, or what of them was not done when it was broken off."""
    private_folder(site.path)
    request = site.path / f"{name}.request.pem"
    if not site.key.exists():
        make_request(site, name)
    elif not request.exists():
        write_request(site, name)
    asked = read_request(request)
    entry = server.register().enrolled(name)
    is_in = entry is not None and entry.key == fingerprint(asked.key)
    with tempfile.TemporaryDirectory() as scratch:
        kit = Path(scratch) / "kit"
        _, told = server.renew(name, kit) if is_in else server.approve(asked, kit)
        install_kit(kit, site, told)


def settings_of(number: int, n_sites: int, data: str) -> dict[str, object]:
    """What ``site.toml`` says. Sites in one container need ports of their own."""
    own = max(0, number - len(first_names))
    return {
        "data": data,
        "partition": number,
        "partitions": n_sites,
        "threads": 1,
        "sidecar-port": SIDECAR_PORT + own,
        "runtime-port": RUNTIME_PORT + own,
        "least-free-gigabytes": 0.5,
    }

"""``fedrebasin server rehearse``: a network whose right answer is known, on the whole way that a site's would go.

The reference, its hidden units shuffled, joins as the checkpoint of a site that is enrolled for this and revoked
afterwards. It is the same function, so that the barrier must vanish, and alignment must find the very shuffling.
"""

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from alignment import PermutationSpec, derive_spec, permute, random_permutation
from alignment.batches import network_with
from cli.enrolment.approval import Server
from cli.enrolment.layout import SiteFolder
from cli.enrolment.parts import read_parts
from cli.enrolment.superlink import nodes, reach_superlink
from cli.flower import SuperLink
from cli.interrupts import Interrupted, terminable
from cli.output import Format, Output, people, print_json
from cli.ports import free_port
from cli.rehearsal import RehearsalError, generator, output_change, recovered
from cli.serve import play
from cli.simulate import join
from cli.superlink import short_folder
from cli.supervise import RunningSite
from models import Architecture, build, example_inputs
from server.records import BarrierRecord, RoundRecord
from server.store import RunStore
from server.summary import read_rounds
from strategies.checkpoints import read_checkpoint
from strategies.protocol import State
from strategies.settings import Settings, parse_settings
from strategies.tensor_files import write_tensors

MOST_BARRIER_NATS = 0.01
ONLINE_SECONDS = 120.0
SAMPLES = """
import torch

def samples():
    generator = torch.Generator().manual_seed(0)
    return torch.randn({count}, {shape}, generator=generator), torch.arange({count}) % {classes}
"""


@dataclass(frozen=True)
class Rehearsal:
    """One rehearsal: the reference, the same shuffled, and where the run is kept."""

    name: str
    settings: Settings
    spec: PermutationSpec
    reference: State
    shuffled: State
    change: float

    @property
    def store(self) -> RunStore:
        """What the run leaves."""
        return RunStore(Path(self.settings.runs_dir) / self.name)


def rehearse(
    reference: Annotated[Path | None, typer.Option(help="A trained network; by default an untrained one.")] = None,
    runs: Annotated[
        Path, typer.Option(resolve_path=True, help="Folder of the runs, where also the ServerApp finds it.")
    ] = Path("runs"),
    dial: Annotated[
        str, typer.Option(help="The proxy's address from here, HOST:PORT; by default the one that sites dial.")
    ] = "",
    folder: Annotated[Path, typer.Option(help="The server's folder.")] = Path("federation"),
    output: Output = Format.TABLE,
) -> None:
    """Send a shuffled copy of the reference through the whole federation: its barrier must be 0.

    No other site may be online: the rehearsal's run would ask it for its network.
    """
    server = Server.open(folder).dialled_at(dial)
    rehearsal = prepare(server, reference, runs)
    try:
        with terminable():
            record = perform(server, rehearsal)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the site of the rehearsal is revoked") from None
    barrier = judge(rehearsal, record)
    if output is Format.JSON:
        print_json(
            {"run": rehearsal.name, "output-change": rehearsal.change, **barrier.model_dump(), "recovered": True}
        )
        return
    people.print(f"shuffling the reference changes its outputs by {rehearsal.change:.1e} at most")
    people.print(f"barrier: naive {barrier.naive}, aligned {barrier.aligned:.2e} nats ({barrier.definition})")
    people.print(f"the shuffling was found and undone exactly; see {rehearsal.store.directory}", soft_wrap=True)


def prepare(server: Server, reference: Path | None, runs: Path) -> Rehearsal:
    """The rehearsal of the federation's network. Raises `RehearsalError` when shuffling changes its outputs."""
    name = f"rehearsal-{secrets.token_hex(3)}"
    wanted = parse_settings(server.federation.run)
    architecture = Architecture(*wanted.network)
    model = build(architecture, wanted.seed)
    state = dict(model.state_dict() if reference is None else read_checkpoint(reference))
    example = example_inputs(architecture)
    spec = derive_spec(model, example)
    shuffled = permute(spec, random_permutation(spec, generator(wanted.seed)), state)
    change = output_change(network_with(model, state), network_with(model, shuffled), example)
    path = write_tensors(runs / f"{name}.safetensors", state)
    config = {key: server.federation.run[key] for key in network_keys() if key in server.federation.run}
    settings = parse_settings(
        config
        | {"run": name, "runs-dir": str(runs), "rounds": 1, "min-sites": 1, "start": "checkpoint", "epochs": 0}
        | {"reference": str(path.resolve()), "align-at": "server", "probe-points": 5}
        # On samples of no meaning the naive path may have less loss by accident.
        | {"guard": False}
    )
    return Rehearsal(name, settings, spec, state, shuffled, change)


def network_keys() -> tuple[str, ...]:
    """The settings that decide which network it is."""
    return ("model", "shape", "classes", "width", "depth", "norm", "seed")


def perform(server: Server, rehearsal: Rehearsal) -> RoundRecord:
    """Enrols the site, plays its round, and revokes it, whatever happens."""
    home = short_folder()
    site = SiteFolder(home / "site")
    with reach_superlink(server.folder, server.federation) as link:
        if there := [node for node, status in nodes(link).items() if status == "online"]:
            raise RehearsalError(f"{len(there)} sites are online; stop them, or rehearse before they come")
        try:
            join(server, site, rehearsal.name)
            _furnish(site, rehearsal)
            return _play(link, site, rehearsal)
        finally:
            if server.register().enrolled(rehearsal.name) is not None:
                server.revoke(rehearsal.name)
            shutil.rmtree(home, ignore_errors=True)


def judge(rehearsal: Rehearsal, record: RoundRecord) -> BarrierRecord:
    """The barrier. Raises `RehearsalError` when it is not 0, or the shuffling was not undone."""
    if rehearsal.name not in record.weights or record.barrier is None:
        raise RehearsalError(f"the network did not get through: {[each.detail for each in record.refused]}")
    if record.barrier.aligned > MOST_BARRIER_NATS:
        raise RehearsalError(f"the barrier is {record.barrier.aligned:.3g} nats, expected {MOST_BARRIER_NATS} at most")
    if wrong := recovered(rehearsal.reference, rehearsal.store.network(1)):
        raise RehearsalError(f"the known permutation did not come back: {wrong} differs from the reference")
    return record.barrier


def _furnish(site: SiteFolder, rehearsal: Rehearsal) -> None:
    """Gives the site its checkpoint, and samples of no meaning: of what is the same function any will do."""
    settings = rehearsal.settings
    checkpoint = write_tensors(site.state / "checkpoint.safetensors", dict(rehearsal.shuffled))
    shape = ", ".join(map(str, settings.tensor_shape))
    code = SAMPLES.format(count=20 * settings.classes, shape=shape, classes=settings.classes)
    (site.code / "rehearsal_samples.py").write_text(code)
    # A site of this machine has the usual ports.
    ports = {"sidecar-port": free_port(), "runtime-port": free_port()}
    config = {"data": "rehearsal_samples:samples", "checkpoint": str(checkpoint.resolve()), "threads": 1, **ports}
    site.settings.write_text(tomli_w.dumps(config))


def _play(link: SuperLink, site: SiteFolder, rehearsal: Rehearsal) -> RoundRecord:
    running = RunningSite(read_parts(site))
    site_proxy = running.parts.membership.proxy
    try:
        running.start()
        ends = time.monotonic() + ONLINE_SECONDS
        while "online" not in nodes(link).values():
            if (ended := running.ended()) or time.monotonic() > ends:
                raise RehearsalError(
                    f"the site did not come online through {site_proxy}: "
                    f"{ended or f'not within {ONLINE_SECONDS:g} s'}. Its sidecar says above what it met. Can this "
                    "machine reach that address? --dial names another way to the same proxy"
                )
        play(link, rehearsal.settings, rehearsal.store)
    finally:
        running.end()
    return read_rounds(rehearsal.store)[0]

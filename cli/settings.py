"""``fedrebasin settings``: a run config, read as a run would read it, before a run is started."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from cli.output import Format, Output, people, print_json, print_table, progress, warn
from cli.room import shortfall
from cli.toml import read_toml, settings_of
from cli.traffic import as_document, show_traffic
from models import Architecture, build
from models.errors import ModelError
from server.heads import feature_shapes
from server.planned import traffic
from server.remarks import network_remarks
from server.taken import check_network
from strategies.errors import SettingsError
from strategies.files import out_of_sight
from strategies.idle import remarks
from strategies.layer_sums import MEGABYTE, layer_sums
from strategies.noise import budget
from strategies.sent import sent_networks
from strategies.settings import REFERENCES, Settings, as_shown, parse_settings

# Sums over features are in double precision.
FEATURE_BYTES = 8


def settings(
    file: Annotated[
        Path | None,
        typer.Argument(help="TOML: a run's settings, as for `flwr run --run-config FILE`; else the defaults."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what every setting of a run would be, or say what is wrong with a run config."""
    config = read_run_config(file) if file is not None else {}
    with settings_of(file):
        try:
            checked = _checked(config)
        except ModelError as error:
            # Of this command's file alone: what `demo` builds is also of the data.
            raise SettingsError(str(error)) from error
    found, usual = (each.model_dump(by_alias=True) for each in (checked.settings, Settings()))
    changed = {key: usual[key] for key, value in found.items() if value != usual[key]}
    moved = traffic(checked.model, checked.settings)
    if output is Format.JSON:
        print_json({**found, "changed-from": changed, "traffic": as_document(moved)})
    else:
        rows = [(f"{key} *" if key in changed else key, as_shown(value)) for key, value in found.items()]
        print_table(str(file or "defaults"), ("setting", "value"), rows, texts=("value",))
        if changed:
            people.print(f"* differs from the default: {len(changed)} of {len(found)}", highlight=False)
        show_traffic(moved, has_later=checked.settings.rounds > 1)
    # Below the table, which is longer than a screen.
    _tell_of(checked, simulated=False)


@dataclass(frozen=True)
class Checked:
    """The settings of a run, the network that they describe, and samples that it takes."""

    settings: Settings
    model: nn.Module
    inputs: Tensor


def checked_settings(config: Mapping[str, object], *, simulated: bool = False) -> Settings:
    """The settings that ``config`` holds, whose network was built and takes samples of their shape.

    Those that change nothing are told, and, unless sites are ``simulated``, what these send of networks and of sums.
    Raises `SettingsError`, also for a last layer that cannot be renewed or a network that there is no room for, or
    `ModelError` for one that there is none of, or not so.
    """
    checked = _checked(config)
    _tell_of(checked, simulated)
    return checked.settings


@torch.no_grad()
def _checked(config: Mapping[str, object]) -> Checked:
    found = parse_settings(config)
    architecture = Architecture(*found.network)
    if lacking := shortfall(architecture):
        raise SettingsError(f"settings 'model', 'width', 'depth', 'shape' and 'classes': {lacking}")
    model = build(architecture, found.seed).eval()
    return Checked(found, model, check_network(model, found))


@torch.no_grad()
def _tell_of(checked: Checked, simulated: bool) -> None:
    found, model = checked.settings, checked.model
    tell_idle(found)
    for line in network_remarks(model, found):
        warn(line)
    if not simulated:
        for line in sent_networks(found, sum(tensor.nbytes for tensor in model.state_dict().values())):
            _tell(line)
    tell_sums(model, checked.inputs, found, simulated)
    if spent := budget(found, found.rounds):
        _tell(f"privacy = {found.privacy!r}: {spent}")


def tell_sums(model: nn.Module, inputs: Tensor, found: Settings, simulated: bool) -> None:
    """Says how much each site would send of sums over layers' inputs, and what there is no room for.

    Of ``simulated`` sites only the latter: nothing leaves the machine.
    """
    if (found.solves_head or found.variants) and not simulated:
        size = sum(map(prod, feature_shapes(model, found.classes).values())) * FEATURE_BYTES / MEGABYTE
        called = f"head = {found.head!r}" if found.solves_head else "variants"
        _tell(f"{called}: each site sends sums over the last layer's inputs, {size:.3g} MB for each network")
    for called, concerned in ((f"merge = {found.merge!r}", found.merge != "mean"), ("variants", found.variants)):
        if concerned:
            sums = layer_sums(model, inputs, found, in_sequence=found.merge == "sequential" and called != "variants")
            # As sites propose, and as weights alone would align.
            twice = ", of two networks" if called == "variants" and found.align_at == "both" else ""
            if not simulated:
                _tell(f"{called}: each site sends {sums}{twice}")
            if sums.shortfall:
                warn(sums.shortfall)


def _tell(text: str) -> None:
    progress.print(text, highlight=False, soft_wrap=True, markup=False)


def tell_idle(found: Settings) -> None:
    """Says which settings change nothing beside the others, and which may not be what was meant."""
    for line in remarks(found):
        warn(line)
    meant = get_close_matches(found.reference.lower(), REFERENCES, 1, 0.8) if found.reference_is_site else []
    if meant:
        warn(f"setting 'reference' = {found.reference!r} is a site's name; if it is a misspelling, set {meant[0]!r}")
    for setting, path in found.paths.items():
        if out_of_sight(Path(path)) or not Path(path).exists():
            what, who = ("file or folder", "sites") if setting == "data" else ("file", "server")
            warn(f"setting {setting!r} = {path!r}: there is no such {what} here; the {who} must have it")


def read_run_config(file: Path) -> dict[str, object]:
    """The keys and values of a TOML file without tables. Raises `SettingsError` when it is none."""
    read = read_toml(file)
    if tables := [key for key, value in read.items() if isinstance(value, dict)]:
        raise SettingsError(f"{file}: [{tables[0]}] is a table; settings stand in none: remove that line")
    return read

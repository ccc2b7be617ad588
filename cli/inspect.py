"""``fedrebasin inspect``: what may move in a network, what stays fixed and why, and the proof."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from alignment import PermutationSpec, check_spec
from alignment.batches import network_with
from alignment.check import trials_needed
from alignment.unread import unread
from cli import options
from cli.bars import bars
from cli.card import network_record
from cli.fitting import fitting_state
from cli.networks import TRACE_ALL, Description, Network, State, describe, find_network, read_file
from cli.output import Format, Output, people, print_json, print_table, warn
from server.records import Record
from server.remarks import unread_remarks

TRIALS = 3


class GroupRecord(Record, frozen=True):
    """Units that move together; ``units`` of a family are those below one unit of its parent."""

    name: str
    units: int
    parent: str | None
    tensors: list[str]


class FixedRecord(Record, frozen=True):
    """An axis of a tensor that stays as it is."""

    tensor: str
    axis: int
    reason: str


class ProofRecord(Record, frozen=True):
    """The greatest |output difference| that random permutations of all groups made."""

    difference: float
    trials: int
    weights: str


class Inspection(Record, frozen=True):
    """What alignment can do with a network.

    unread  weights without a say in the outputs of the traced run, that what feeds them may leave behind
    """

    network: dict[str, str | int | None]
    parameters: int
    moving_parameters: int
    groups: list[GroupRecord]
    fixed: list[FixedRecord]
    unread: list[str]
    proof: ProofRecord


def inspect(
    model: options.Model,
    file: Annotated[Path | None, typer.Argument(help="Weights to take sizes from, and to prove with.")] = None,
    seed: options.Seed = 0,
    shape: options.Shape = "",
    classes: options.Classes = 0,
    width: options.Width = 0,
    depth: options.Depth = 0,
    norm: options.Norm = "",
    example: options.Example = "",
    answer: Output = Format.TABLE,
) -> None:
    """Show what may move in a network: groups of units, what stays fixed and why, and the proof.

    FILE, if given, is a safetensors file. It gives the sizes, and the weights to make the proof with.

    \b
    fedrebasin inspect --model resnet20 --shape 3x32x32 --classes 10
    fedrebasin inspect weights.safetensors --model mine:make --example mine:example
    """
    read = read_file(file) if file is not None else None
    network = find_network(Description(model, shape, classes, width, depth, norm, example), read, seed=seed)
    state = fitting_state(network, read) if read is not None else network.module.state_dict()
    with bars() as shown, shown.stretch("deriving the permutation spec"):
        found = examine(network, state, file.name if file is not None else "a fresh start", seed)
    if answer is Format.JSON:
        print_json(found.model_dump())
    else:
        show(found, describe(network.known))


def examine(network: Network, state: State, weights: str, seed: int) -> Inspection:
    """Derives the spec and proves it on ``state``. Raises `SpecError` when the proof fails."""
    spec = network.derive()
    generator = torch.Generator().manual_seed(seed)
    module = network_with(network.module, state)
    gap = check_spec(module, spec, network.example, generator=generator, trials=TRIALS)
    sizes = {name: parameter.numel() for name, parameter in network.module.named_parameters()}
    return Inspection(
        network=network_record(network),
        parameters=sum(sizes.values()),
        moving_parameters=sum(size for name, size in sizes.items() if name in spec.moving),
        groups=_groups(spec),
        fixed=[FixedRecord(tensor=tensor, axis=axis, reason=why) for (tensor, axis), why in spec.fixed.items()],
        unread=list(unread(spec)),
        proof=ProofRecord(difference=gap, trials=trials_needed(spec, TRIALS), weights=weights),
    )


def show(found: Inspection, title: str) -> None:
    """Groups, fixed axes by reason, and the proof."""
    groups = [(group.name, f"{group.units}", f"{len(group.tensors)}", group.parent or "") for group in found.groups]
    print_table(title, ("group", "units", "tensors", "below each of"), groups, ("below each of",))
    reasons = defaultdict[str, list[str]](list)
    for each in found.fixed:
        reasons[each.reason].append(f"{each.tensor}[{each.axis}]")
    fixed = [(f"{len(axes)}", axes[0], why) for why, axes in reasons.items()]
    print_table("what stays fixed", ("axes", "such as", "why"), fixed, ("such as", "why"))
    share = found.moving_parameters / max(found.parameters, 1)
    people.print(f"{found.parameters} parameters, {share:.1%} of them in tensors that move")
    people.print(
        f"proof: outputs differ by at most {found.proof.difference:.2g} over {found.proof.trials} random permutations "
        f"of all groups, with the weights of {found.proof.weights}",
        soft_wrap=True,
    )
    if not found.groups:
        warn("nothing may move: a merge of such networks is their plain mean")
    for remark in unread_remarks(found.unread, TRACE_ALL):
        warn(remark)


def _groups(spec: PermutationSpec) -> list[GroupRecord]:
    tensors = defaultdict[str, dict[str, None]](dict)
    for block in spec.blocks:
        for group in filter(None, block.groups):
            tensors[group][block.tensor] = None
    return [
        GroupRecord(name=name, units=units, parent=spec.parents.get(name), tensors=list(tensors[name]))
        for name, units in spec.groups.items()
    ]

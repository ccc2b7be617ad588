"""``fedrebasin barrier``: loss and accuracy on the straight line between two networks, without and with alignment."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from alignment import permute
from cli import options
from cli.bars import Bars, bars
from cli.card import network_record, share_moved
from cli.errors import OptionError
from cli.evidence import Evidence, read_evidence
from cli.fitting import fitting_states
from cli.match import Matcher
from cli.measure import Judge
from cli.networks import Description, check_samples, find_network, read_file
from cli.options import Method
from cli.output import Format, Output, people, print_json, print_table, warn
from cli.paths import OutputError, check_output, labels, picture_form
from cli.same import same_networks
from server.drawing import path_picture
from server.records import BarrierRecord, MatchingRecord, Paths, Record
from strategies.files import write_bytes


class BarrierAnswer(Record, frozen=True):
    """The lines from the reference to the other network, and how the two were matched.

    held_out  what the lines were measured on; none where that is ``data`` itself
    flatters  whether the samples that judge also matched or recalibrated
    highest   of each line, the λ of its greatest loss; at 0 or 1 the barrier is half the difference between the ends
    notes     what may not be what was meant
    plot      the picture's file, where one was drawn
    """

    reference: str
    other: str
    sha256: list[str]
    network: dict[str, str | int | None]
    method: str
    seed: int
    data: str
    held_out: str | None
    flatters: bool
    matching: MatchingRecord
    moved: float
    paths: Paths
    barrier: BarrierRecord
    highest: dict[str, float]
    definition: str
    notes: list[str]
    plot: str | None = None


@dataclass(frozen=True)
class Plan:
    """One measurement as it was asked for."""

    reference: Path
    other: Path
    said: Description
    method: Method
    steps: int
    evidence: Evidence
    seed: int
    points: int


def barrier(
    reference: options.Input,
    other: options.Input,
    model: options.Model,
    data: options.Data,
    plot: Annotated[Path | None, typer.Option(help="Draw both lines to this file, .svg or .png.")] = None,
    method: options.MatchBy = Method.WEIGHTS,
    held_out: options.HeldOut = "",
    class_names: options.ClassNames = "",
    steps: options.Steps = 100,
    seed: options.Seed = 0,
    points: options.Points = 25,
    batch_size: options.BatchSize = 256,
    force: Annotated[bool, typer.Option("--force", help="Replace the picture.")] = False,
    shape: options.Shape = "",
    classes: options.Classes = 0,
    width: options.Width = 0,
    depth: options.Depth = 0,
    norm: options.Norm = "",
    example: options.Example = "",
    answer: Output = Format.TABLE,
) -> None:
    """Measure the barrier between two networks, naive and aligned.

    REFERENCE and OTHER are safetensors files of one network. The barrier is the most by which the loss on the straight
    line between them exceeds the mean of both ends.

    If the network has BatchNorm, its statistics are recomputed on --data at every point of the line, the ends included:
    their losses are not those of the files as they are, which merge measures.

        \b
    fedrebasin barrier a.safetensors b.safetensors --model resnet20 --data digits --plot path.svg
    """
    form = picture_form(plot) if plot is not None else "svg"
    if plot is not None:
        check_output(plot, force)
    evidence = read_evidence(data, held_out, class_names, seed, batch_size)
    if evidence is None:
        raise OptionError("--data is empty: a barrier is measured on samples")
    said = Description(model, shape, classes, width, depth, norm, example)
    plan = Plan(reference, other, said, method, steps, evidence, seed, points)
    with bars() as shown:
        found = measure(plan, shown)
    if plot is not None:
        title = "\n".join((between(found), f"{heights(found)}, in nats", *at_ends(found)))
        _draw(plot, path_picture(found.paths, form, title))
        found = found.model_copy(update={"plot": str(plot)})
    if answer is Format.JSON:
        print_json(found.model_dump())
    else:
        show(found)
    for note in found.notes:
        warn(note)


def measure(plan: Plan, shown: Bars) -> BarrierAnswer:
    """Matches the two networks and measures both lines."""
    files = [read_file(path) for path in (plan.reference, plan.other)]
    network = find_network(plan.said, files[0], plan.evidence.data.samples)
    if plan.evidence.apart is not None:
        check_samples(network, plan.evidence.apart.samples, "--held-out")
    reference, other = fitting_states(network, files)
    with shown.stretch("deriving the permutation spec"):
        spec = network.derive()
    matcher = Matcher(network, spec, plan.method, plan.steps, plan.evidence, plan.seed, shown)
    matching = matcher.match(reference, other, "matching")
    aligned = permute(spec, matching.permutation, other)
    judge = Judge(network, plan.evidence, shown)
    paths = judge.paths(reference, other, aligned, plan.points)
    names = labels([plan.reference, plan.other])
    apart = plan.evidence.apart
    return BarrierAnswer(
        reference=names[0],
        other=names[1],
        sha256=[file.sha256 for file in files],
        network=network_record(network),
        method=plan.method,
        seed=plan.seed,
        data=plan.evidence.data.name,
        held_out=apart.name if apart is not None else None,
        flatters=apart is None and (plan.method is not Method.WEIGHTS or network.has_batch_norm),
        matching=MatchingRecord.of(matching),
        moved=share_moved(matching),
        paths=paths,
        barrier=BarrierRecord(naive=paths.naive.barrier, aligned=paths.aligned.barrier, definition=judge.definition),
        highest={"naive": paths.naive.highest, "aligned": paths.aligned.highest},
        definition=judge.definition,
        notes=list(same_networks(names, (reference, other))),
    )


def show(found: BarrierAnswer) -> None:
    """Both lines point by point, and their heights."""
    naive, aligned = found.paths.naive, found.paths.aligned
    lines = zip(naive.lambdas, naive.losses, aligned.losses, naive.accuracies, aligned.accuracies, strict=True)
    rows = [tuple(f"{number:.3f}" for number in line) for line in lines]
    columns = ("λ", "loss naive", "aligned", "accuracy naive", "aligned")
    print_table(between(found), columns, rows)
    people.print(heights(found))
    for line in at_ends(found):
        people.print(line, soft_wrap=True)
    people.print(f"({found.definition})", style="dim", soft_wrap=True)
    people.print(f"matched by {found.method}: {found.moved:.0%} of all units moved, gain {found.matching.gain:.5g}")
    if found.plot is not None:
        people.print(f"picture: {found.plot}", soft_wrap=True, markup=False)
    if found.flatters:
        warn("measured on the samples that the networks were matched or recalibrated on; --held-out takes others")


def between(found: BarrierAnswer) -> str:
    """Which two networks the line is between, and what it was measured on."""
    return f"from {found.reference} (λ = 0) to {found.other} (λ = 1), on {found.held_out or found.data}"


def heights(found: BarrierAnswer) -> str:
    """Both barriers in words."""
    return f"barrier: naive {found.paths.naive.barrier:.3f}, aligned {found.paths.aligned.barrier:.3f}"


def at_ends(found: BarrierAnswer) -> Iterator[str]:
    """In words, which lines nowhere rise above an end: their barriers tell of the ends alone. Not if shown as 0."""
    heights = {"naive": found.paths.naive.barrier, "aligned": found.paths.aligned.barrier}
    shown = [name for name, height in heights.items() if isfinite(height) and round(height, 3)]
    for end in (0, 1):
        if names := ", ".join(name for name in shown if found.highest[name] == end):
            yield f"{names}: highest at the end λ = {end}; the barrier is half the ends' difference"


def _draw(plot: Path, picture: bytes) -> None:
    try:
        write_bytes(plot, picture)
    except OSError as error:
        raise OutputError(f"{plot}: cannot be written: {error}") from error

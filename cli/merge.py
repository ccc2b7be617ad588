"""``fedrebasin merge``: networks in files, aligned and averaged, with a card that says what they are worth."""

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from alignment.interpolate import normalised
from cli import options
from cli.bars import bars
from cli.card import STALE, Card, InputRecord
from cli.errors import OptionError
from cli.evidence import read_evidence
from cli.match import require_data
from cli.merging import Plan, write_merge
from cli.networks import Description
from cli.options import Layers, Method
from cli.output import Format, Output, people, print_json, print_table, warn
from cli.paths import cards_of, check_network_output
from server.records import Score


def merge(
    inputs: Annotated[list[Path], typer.Argument(help="Two or more safetensors files; the first is the reference.")],
    model: options.Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="OUT.safetensors; its folder is made if need be. The card goes to OUT.md and OUT.json.",
        ),
    ],
    method: options.MatchBy = Method.WEIGHTS,
    layers: options.MergeBy = Layers.MEAN,
    data: options.Data = "",
    held_out: options.HeldOut = "",
    class_names: options.ClassNames = "",
    steps: options.Steps = 100,
    weights: Annotated[
        str, typer.Option(help="Shares of the inputs: a positive number for each, such as 1,2. By default equal.")
    ] = "",
    seed: options.Seed = 0,
    points: options.Points = 25,
    batch_size: options.BatchSize = 256,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT and its card.")] = False,
    shape: options.Shape = "",
    classes: options.Classes = 0,
    width: options.Width = 0,
    depth: options.Depth = 0,
    norm: options.Norm = "",
    example: options.Example = "",
    answer: Output = Format.TABLE,
) -> None:
    """Merge networks: align each to the first, then average. Writes OUT.safetensors and its card.

    INPUTS are two or more safetensors files of one network; the first is the reference.

    With --data it recalibrates BatchNorm, and measures inputs, merge and the barriers between the inputs. Inputs are
    measured as they are; merges, and each point of a line between inputs, with BatchNorm recalibrated.

        \b
    fedrebasin merge a.safetensors b.safetensors --model resnet20 --data digits -o ab.safetensors
    """
    check_network_output(output, inputs, force)
    require_data(method, data, layers)
    shares = parse_weights(weights, len(inputs))
    said = Description(model, shape, classes, width, depth, norm, example)
    evidence = read_evidence(data, held_out, class_names, seed, batch_size)
    plan = Plan(inputs, said, shares, method, layers, steps, evidence, seed, points)
    with bars() as shown:
        card = write_merge(plan, output, shown)
    if answer is Format.JSON:
        print_json(card.model_dump())
    else:
        show(card, output)
    for note in card.notes:
        warn(note)
    if card.statistics == "stale":
        warn(STALE)


def parse_weights(weights: str, n_inputs: int) -> list[float]:
    """The inputs' shares, which add up to 1. Raises `OptionError`."""
    if n_inputs < 2:
        raise OptionError(f"expected two or more networks to merge, got {n_inputs}")
    try:
        given = [float(weight) for weight in weights.split(",")] if weights else [1.0] * n_inputs
    except ValueError:
        raise OptionError(f"--weights {weights!r}: expected numbers with commas between them, such as 1,2") from None
    if len(given) != n_inputs:
        raise OptionError(f"--weights {weights!r}: {len(given)} numbers for {n_inputs} inputs: give one for each")
    if not all(isfinite(weight) and weight > 0 for weight in given):
        raise OptionError(f"--weights {weights!r}: expected positive numbers; leave a network out to give it none")
    if not isfinite(sum(given)):
        raise OptionError(f"--weights {weights!r}: their sum is more than a float can hold; only their shares matter")
    return normalised(given, n_inputs)


def show(card: Card, output: Path) -> None:
    """How the inputs were matched, what the merge is worth, and where it lies."""
    matched = [(each.file, f"{each.weight:.3f}", *_matching(each)) for each in card.inputs]
    print_table(str(output), ("network", "weight", "objective", "gain", "moved"), matched)
    if card.data is not None:
        rows = [(each.file, *_score(each.score), *_barrier(each)) for each in card.inputs]
        rows += [("mean without alignment", *_score(card.naive), "", "")]
        rows += [("merged", *_score(card.merged), "", "")]
        print_table(
            f"measured on {(card.held_out or card.data).name}",
            ("network", "accuracy", "loss", "barrier naive", "aligned"),
            rows,
        )
        for line in dict.fromkeys(each.barrier.definition for each in card.inputs if each.barrier is not None):
            people.print(f"({line})", style="dim", soft_wrap=True)
        if card.measured:
            people.print(card.measured, soft_wrap=True)
    if card.flatters:
        warn("measured on the samples that the merge was made with, which flatters it; --held-out takes others")
    people.print(f"card: {cards_of(output)[0]}", soft_wrap=True)


def _matching(each: InputRecord) -> tuple[str, str, str]:
    if each.matching is None:
        return "reference", "", ""
    return f"{each.matching.objective:.5g}", f"{each.matching.gain:.5g}", f"{each.moved:.0%}"


def _score(score: Score | None) -> tuple[str, str]:
    return (f"{score.accuracy:.3f}", f"{score.loss:.3f}") if score is not None else ("", "")


def _barrier(each: InputRecord) -> tuple[str, str]:
    return (f"{each.barrier.naive:.3f}", f"{each.barrier.aligned:.3f}") if each.barrier is not None else ("", "")

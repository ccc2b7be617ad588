"""Every figure and number of docs/alignment.md, on scikit-learn's digits.

    python -m benchmarks.figures_alignment              all, six minutes on one core: tables, and docs/images/*.svg
    python -m benchmarks.figures_alignment --only methods

Networks start from seeds 0, 1 and 2, each draws its own weights and its own order of samples. Matching and
recalibration use the training samples, measurements the fifth that was held out.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from alignment import (
    Barrier,
    Matching,
    PermutationSpec,
    derive_spec,
    interpolate,
    loss_barrier,
    match_activations,
    match_straight_through,
    match_weights,
    merge_many,
    permute,
    repair,
)
from alignment.barrier import LossSums, loss_sums
from alignment.batches import network_with
from benchmarks import digits_networks
from benchmarks.digits_networks import CLASSES, SHAPE, train_network
from benchmarks.drawings import draw_paths, draw_symmetry, draw_widths
from client.sources import Samples, scaled
from client.training import Schedule, train
from models import Architecture

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SEEDS = (0, 1, 2)
METHODS = ("naive", "weights", "activations", "straight-through")
MLP = Architecture("mlp", SHAPE, CLASSES, 256, 3, "none")
LAYER = Architecture("resnet20", SHAPE, CLASSES, 16, 8, "layer")
BATCH = Architecture("resnet20", SHAPE, CLASSES, 16, 8, "batch")
NAMES = {MLP: "MLP 3 × 256", LAYER: "ResNet-8 × 16, LayerNorm", BATCH: "ResNet-8 × 16, BatchNorm"}
WIDTHS = (4, 8, 16, 32)

State = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]


@cache
def trained(architecture: Architecture, seed: int) -> nn.Module:
    """The network of that seed."""
    return train_network(architecture, seed)


@cache
def spec_of(architecture: Architecture) -> PermutationSpec:
    """The permutation spec of the network."""
    return derive_spec(trained(architecture, SEEDS[0]), (torch.randn(2, *SHAPE),))


@cache
def batches(part: Callable[[], tuple[Tensor, Tensor]]) -> Batches:
    """``digits_networks.training`` or ``held_out``, in batches of 256."""
    inputs, targets = part()
    return list(zip(torch.split(scaled(inputs), 256), torch.split(targets, 256), strict=True))


def state_of(architecture: Architecture, seed: int) -> State:
    """The weights of the network of that seed."""
    return trained(architecture, seed).state_dict()


def recalibration(architecture: Architecture) -> Batches | None:
    """What to recalibrate on, where there is BatchNorm."""
    return batches(digits_networks.training) if architecture.norm == "batch" else None


def find(architecture: Architecture, method: str, reference: State, candidate: State) -> Matching:
    """The matching by that method, on the training samples where it looks at samples."""
    spec, model, data = spec_of(architecture), trained(architecture, SEEDS[0]), batches(digits_networks.training)
    match method:
        case "activations":
            return match_activations(spec, model, reference, candidate, data)
        case "straight-through":
            return match_straight_through(spec, model, reference, candidate, data, cross_entropy)
        case _:
            return match_weights(spec, reference, candidate)


def brought(architecture: Architecture, method: str, reference: State, candidate: State) -> State:
    """``candidate``, aligned by that method; by "naive", as it is."""
    if method == "naive":
        return candidate
    return permute(spec_of(architecture), find(architecture, method, reference, candidate).permutation, candidate)


def line(architecture: Architecture, reference: State, other: State) -> Barrier:
    """The straight line between two networks."""
    held_out, again = batches(digits_networks.held_out), recalibration(architecture)
    return loss_barrier(trained(architecture, 0), reference, other, held_out, cross_entropy, 25, again)


def path(architecture: Architecture, method: str, seeds: Sequence[int]) -> Barrier:
    """The line between the networks of two seeds, the second aligned by that method."""
    a, b = (state_of(architecture, seed) for seed in seeds)
    return line(architecture, a, brought(architecture, method, a, b))


def score(architecture: Architecture, state: State, again: Batches | None = None) -> LossSums:
    """Sums over the samples held out, recalibrated on ``again``."""
    return loss_sums(trained(architecture, 0), state, batches(digits_networks.held_out), cross_entropy, again)


def accuracy(architecture: Architecture, state: State, again: Batches | None = None) -> float:
    """On the samples held out, 0..1."""
    sums = score(architecture, state, again)
    return sums.correct / sums.count


def methods() -> None:
    """Barrier and accuracy halfway, for each network and method, mean over the three pairs."""
    table("network", "ends", *METHODS)
    for architecture, name in NAMES.items():
        ends = mean(accuracy(architecture, state_of(architecture, seed)) for seed in SEEDS)
        row(name, f"{ends:.3f}", *(_quality(architecture, method) for method in METHODS))


def _quality(architecture: Architecture, method: str) -> str:
    """Accuracy halfway, barrier, and seconds for one matching."""
    pairs = [[state_of(architecture, seed) for seed in seeds] for seeds in combinations(SEEDS, 2)]
    start = time.process_time()
    ends = [(a, brought(architecture, method, a, b)) for a, b in pairs]
    seconds = (time.process_time() - start) / len(pairs)
    paths = [line(architecture, *pair) for pair in ends]
    quality = f"{mean(each.accuracies[12] for each in paths):.3f}, {mean(each.barrier for each in paths):.3f}"
    return quality if method == "naive" else f"{quality}, {seconds:.2g} s"


def batch_norm() -> None:
    """Accuracy halfway with stale and with recomputed statistics; draws the path."""
    table("halfway between seeds 0 and 1", "accuracy, stale statistics", "accuracy, recalibrated")
    a, b = (state_of(BATCH, seed) for seed in SEEDS[:2])
    for method in METHODS[:3]:
        middle = interpolate(a, brought(BATCH, method, a, b), 0.5)
        again = recalibration(BATCH)
        row(method, f"{accuracy(BATCH, middle):.3f}", f"{accuracy(BATCH, middle, again):.3f}")
    print(draw_paths(IMAGES, {method: path(BATCH, method, SEEDS[:2]) for method in METHODS[:3]}))


def repaired() -> None:
    """Accuracy and loss halfway without and with REPAIR."""
    table("halfway between seeds 0 and 1, weights", "as merged", "after `repair`")
    for architecture, name in NAMES.items():
        a, b = (state_of(architecture, seed) for seed in SEEDS[:2])
        aligned = brought(architecture, "weights", a, b)
        middle, model = interpolate(a, aligned, 0.5), trained(architecture, 0)
        mended = repair(model, a, aligned, middle, batches(digits_networks.training))
        plain = score(architecture, middle, recalibration(architecture))
        row(name, *(f"{s.correct / s.count:.3f}, {s.loss / s.count:.3f}" for s in (plain, score(architecture, mended))))


def widths() -> None:
    """The barrier by width, mean over the three pairs; draws it."""
    chosen = METHODS[:3]
    found: dict[str, dict[int, float]] = {method: {} for method in chosen}
    table("ResNet-8, BatchNorm: barrier", *(f"× {width}" for width in WIDTHS))
    for method in chosen:
        for width in WIDTHS:
            architecture = Architecture("resnet20", SHAPE, CLASSES, width, 8, "batch")
            found[method][width] = mean(path(architecture, method, p).barrier for p in combinations(SEEDS, 2))
        row(method, *(f"{height:.3f}" for height in found[method].values()))
    print(draw_widths(IMAGES, found))


def many() -> None:
    """Accuracy of three networks merged, by method of `merge_many`."""
    kinds = ("reference", "many", "tree")
    table("three networks", "naive", *kinds)
    for architecture, name in NAMES.items():
        states = [state_of(architecture, seed) for seed in SEEDS]
        fixed = PermutationSpec.by_hand(states[0], {})
        again = recalibration(architecture)
        merged = [merge_many(fixed, states)]
        merged += [merge_many(spec_of(architecture), states, method=kind) for kind in kinds]
        row(name, *(f"{accuracy(architecture, state, again):.3f}" for state in merged))


def limits() -> None:
    """Where alignment does not pay: labels that do not overlap, and networks that share their start."""
    inputs, targets = digits_networks.training()
    parts = [Samples(inputs[mask], targets[mask]) for mask in (targets < 5, targets >= 5)]
    apart = [train_network(BATCH, seed, part).state_dict() for seed, part in enumerate(parts)]
    table("two networks, ResNet-8 × 16", "first", "second", "ensemble", "naive", "weights", "activations", "moved")
    _pair("digits 0–4, digits 5–9", apart)
    _pair("all digits, own starts", [state_of(BATCH, seed) for seed in SEEDS[:2]])
    _pair("all digits, one start, two more epochs each", [_continued(seed) for seed in SEEDS[:2]])


def symmetry() -> None:
    """Draws a network and its permuted copy."""
    print(draw_symmetry(IMAGES))


def _pair(name: str, states: Sequence[State]) -> None:
    a, b = states
    again = recalibration(BATCH)
    merges = [interpolate(a, brought(BATCH, method, a, b), 0.5) for method in METHODS[:3]]
    moved = find(BATCH, "weights", a, b).moved
    cells = [accuracy(BATCH, a), accuracy(BATCH, b), _ensemble(states)]
    cells += [accuracy(BATCH, middle, again) for middle in merges]
    row(name, *(f"{cell:.3f}" for cell in cells), f"{mean(moved.values()):.0%}")


def _continued(seed: int) -> State:
    model = network_with(trained(BATCH, 0)).requires_grad_(True)
    train(model, Samples(*digits_networks.training()), Schedule(2, 32, 0.02, 3e-3, seed), torch.device("cpu"))
    return model.state_dict()


def _ensemble(states: Sequence[State]) -> float:
    networks = [network_with(trained(BATCH, 0), state) for state in states]
    right = count = 0.0
    with torch.no_grad():
        for inputs, targets in batches(digits_networks.held_out):
            chances = torch.stack([network(inputs).softmax(-1) for network in networks]).mean(0)
            right += float((chances.argmax(-1) == targets).sum())
            count += len(targets)
    return right / count


def table(*columns: str) -> None:
    """The head of a table in Markdown."""
    print()
    row(*columns)
    row("---", *["---:"] * (len(columns) - 1))


def row(*cells: str) -> None:
    """A row of a table in Markdown."""
    print(f"| {' | '.join(cells)} |", flush=True)


STUDIES: dict[str, Callable[[], None]] = {
    "symmetry": symmetry,
    "methods": methods,
    "batch-norm": batch_norm,
    "repair": repaired,
    "widths": widths,
    "many": many,
    "limits": limits,
}


def main(chosen: Iterable[str] = ()) -> None:
    """Runs the studies that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    options = parser.parse_args(list(chosen) or None)
    torch.set_num_threads(1)
    for name in options.only:
        STUDIES[name]()


if __name__ == "__main__":
    main()
